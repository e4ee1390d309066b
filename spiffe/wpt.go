package spiffe

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// maxBound is how many tokens beside the WIT-SVID one proof token binds.
const maxBound = 16

// ProofToken is a Workload Proof Token: a JWT by which the owner of a WIT-SVID
// proves to hold its key (WIMSE Workload Proof Token). It is what was read, and
// nothing of it counts before its signature is checked by the WIT-SVID's key and
// what it binds against the request it came with.
type ProofToken struct {
	// Algorithm is the one it says it is signed by.
	Algorithm string
	// Audience is whom it is for: one name.
	Audience string
	// Expiry is when it ends; NotBefore and IssuedAt are zero if it does not say.
	Expiry, NotBefore, IssuedAt time.Time
	// ID is jti, which no other proof has.
	ID string
	// WITHash, AccessHash and TxnHash are wth, ath and tth: SHA-256 of the WIT-SVID,
	// the token in Authorization and the transaction token; empty for none.
	WITHash, AccessHash, TxnHash []byte
	// OtherHashes is oth: SHA-256 of header fields, by their names.
	OtherHashes map[string][]byte

	signed signedJWT
}

// Content is what the signature is over.
func (p *ProofToken) Content() []byte { return []byte(p.signed.content) }

// Signature is the third part.
func (p *ProofToken) Signature() []byte { return p.signed.signature }

// ParseProofToken reads a Workload Proof Token in JWS compact serialization as
// strictly as [ParseWIT] reads a WIT-SVID. typ must be wpt+jwt, aud one text, and
// exp, jti and wth be there; other claims are ignored. A key that its header
// brings is never looked at.
func ParseProofToken(token string) (*ProofToken, error) {
	signed, err := splitJWT(token)
	if err != nil {
		return nil, fmt.Errorf("proof token: %w", err)
	}
	p := &ProofToken{signed: signed}
	if err := p.parseHeader(); err != nil {
		return nil, fmt.Errorf("proof token header: %w", err)
	}
	if err := p.parseClaims(); err != nil {
		return nil, fmt.Errorf("proof token claims: %w", err)
	}
	return p, nil
}

func (p *ProofToken) parseHeader() error {
	header, err := parseStrict(p.signed.header)
	if err != nil {
		return err
	}
	for _, name := range []string{"crit", "b64", "zip", "cty", "enc"} {
		if _, ok := header[name]; ok {
			return fmt.Errorf("has %q, which is not accepted", name)
		}
	}
	var ok bool
	if p.Algorithm, ok = stringOf(header["alg"]); !ok || p.Algorithm == "" {
		return errors.New("alg is missing or not a text")
	}
	if typ, _ := stringOf(header["typ"]); typ != "wpt+jwt" {
		return fmt.Errorf("typ %s is not wpt+jwt", clip(string(header["typ"])))
	}
	return nil
}

func (p *ProofToken) parseClaims() error {
	claims, err := parseStrict(p.signed.payload)
	if err != nil {
		return err
	}
	var ok bool
	if p.Audience, ok = stringOf(claims["aud"]); !ok || p.Audience == "" {
		return errors.New("aud is not one text: a proof is for one receiver")
	}
	if p.ID, ok = stringOf(claims["jti"]); !ok || len(p.ID) < 8 || len(p.ID) > 256 {
		return errors.New("jti is not a text of 8 to 256 bytes")
	}
	if _, ok := claims["exp"]; !ok {
		return errors.New("exp is missing")
	}
	for _, claim := range []struct {
		name string
		at   *time.Time
	}{{"exp", &p.Expiry}, {"nbf", &p.NotBefore}, {"iat", &p.IssuedAt}} {
		if *claim.at, err = parseSeconds(claims, claim.name); err != nil {
			return err
		}
	}
	for _, claim := range []struct {
		name string
		into *[]byte
	}{{"wth", &p.WITHash}, {"ath", &p.AccessHash}, {"tth", &p.TxnHash}} {
		raw, there := claims[claim.name]
		if !there && claim.name != "wth" {
			continue
		}
		if *claim.into, err = parseHash(raw); err != nil {
			return fmt.Errorf("%s %w", claim.name, err)
		}
	}
	return p.parseOthers(claims["oth"])
}

func (p *ProofToken) parseOthers(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	others, err := parseObject(raw)
	if err != nil || len(others) > maxBound {
		return fmt.Errorf("oth is not an object of at most %d names", maxBound)
	}
	p.OtherHashes = make(map[string][]byte, len(others))
	for name, value := range others {
		if p.OtherHashes[name], err = parseHash(value); err != nil {
			return fmt.Errorf("oth: %q %w", clip(name), err)
		}
	}
	return nil
}

// parseHash reads a SHA-256 in base64url.
func parseHash(raw json.RawMessage) ([]byte, error) {
	text, _ := stringOf(raw)
	hash, err := decodeBase64(text)
	if err != nil || len(hash) != 32 {
		return nil, errors.New("is not a SHA-256 in base64url")
	}
	return hash, nil
}
