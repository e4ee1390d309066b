package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// JWTLifetime is how long a JWT-SVID lives, at most: whoever gets hold of one
// is its subject until then.
const JWTLifetime = 5 * time.Minute

// JWTRequest is what a JWT-SVID is made of. All but the audience comes from the
// rule that was evaluated.
type JWTRequest struct {
	ID       spiffe.ID
	Audience []string      // as registry.ValidateAudience allows
	TTL      time.Duration // that of the rule; 0 or over JWTLifetime: JWTLifetime

	// For the journal, not the token.
	Requester string
	Rule      string
	Revision  uint64
}

// JWTResult is what became of one request of a batch.
type JWTResult = Outcome[spiffe.JWTSVID]

type jwtHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ"`
}

type jwtClaims struct {
	Issuer    string        `json:"iss,omitempty"`
	Subject   string        `json:"sub"`
	Audience  []string      `json:"aud,omitempty"`
	Expiry    int64         `json:"exp"`
	NotBefore int64         `json:"nbf,omitzero"`
	IssuedAt  int64         `json:"iat,omitzero"`
	ID        string        `json:"jti"` // the serial of its journal entry
	Holder    *confirmation `json:"cnf,omitempty"`
}

// SignJWTs signs up to 1024 JWT-SVIDs with one write to the journal, on all
// cores. Results are as those of SignBatch, and so are the steps.
func (c *CA) SignJWTs(ctx context.Context, requests []JWTRequest) []JWTResult {
	results, _ := signAll(ctx, c, kind[JWTRequest, *jwtRing, spiffe.JWTSVID]{c.ringReady, c.planJWT, c.metrics.jwtIssued}, requests)
	return results
}

func (c *CA) ringReady(context.Context, time.Time) (*jwtRing, error) { return c.jwt.Load(), nil }

// algorithmFor is what the receivers of a token read: RS256 all of them do.
func (c *CA) algorithmFor(audience []string) string {
	if slices.ContainsFunc(audience, func(name string) bool { return slices.Contains(c.config.RS256Audiences, name) }) {
		return rs256
	}
	return es256
}

// planJWT chooses the key and makes the claims and, apart from them, what the
// result must be.
func (c *CA) planJWT(i *intent, made *linted[spiffe.JWTSVID], r JWTRequest, ring *jwtRing, now time.Time) error {
	if err := c.validateJWT(r); err != nil {
		return c.refuse(refusedInvalid, fmt.Errorf("sign JWT of %s: %w", r.ID, err))
	}
	algorithm := c.algorithmFor(r.Audience)
	key, ok := ring.signing(keyKind{"", algorithm})
	if !ok {
		return c.refuse(refusedIssuer, fmt.Errorf("there is no key for %s yet that every node knows", algorithm))
	}
	id, err := randomID()
	if err != nil {
		return err
	}
	ttl := JWTLifetime
	if r.TTL > 0 {
		ttl = min(ttl, r.TTL.Truncate(time.Second))
	}
	want := jwtExpectation{issuer: c.config.Issuer, id: r.ID, audience: r.Audience, issuedAt: now, expiry: now.Add(ttl), jti: id, keyID: key.id, algorithm: algorithm}
	i.entry = Entry{
		Kind: JWTEntry, Time: now, Serial: id, ID: r.ID.String(), NotAfter: want.expiry, Issuer: key.id,
		Audience: strings.Join(r.Audience, " "), Requester: r.Requester, Rule: r.Rule, Revision: r.Revision,
	}
	claims := jwtClaims{Issuer: c.config.Issuer, Subject: r.ID.String(), Audience: r.Audience, Expiry: now.Add(ttl).Unix(), IssuedAt: now.Unix(), ID: id}
	i.make = c.makeToken(key, claims, want.expiry, func(token string) (err error) {
		*made, err = lintJWT(token, want)
		return err
	})
	return nil
}

func (c *CA) validateJWT(r JWTRequest) error {
	switch {
	case r.ID.TrustDomain() != c.td:
		return fault.Invalidf("it is not in trust domain %s", c.td)
	case r.ID.Path() == "":
		return fault.Invalidf("it has no path") // JWT-SVID 3.1
	case r.TTL != 0 && r.TTL < minLeaf:
		return fault.Invalidf("ttl %s is under %s", r.TTL, minLeaf)
	case len(r.Requester) > 2048 || len(r.Rule) > 256:
		return fault.Invalidf("requester or rule is too long")
	}
	return registry.ValidateAudience(r.Audience)
}

// makeToken is how a token is signed, parsed and linted.
func (c *CA) makeToken(key jwtKey, claims jwtClaims, expires time.Time, lint func(string) error) func() (refusal, error) {
	return func() (refusal, error) {
		key.signed(expires) // before it is: a key that has signed is kept
		token, err := c.encode(key, claims)
		if err != nil {
			return refusedInternal, err
		}
		return refusedLint, lint(token)
	}
}

// encodeJWT is the compact serialization, signed. RFC 7515 7.1, RFC 7518 3.3, 3.4.
func encodeJWT(key jwtKey, claims jwtClaims) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	token := make([]byte, 0, 1024)
	token = append(append(token, key.header...), '.')
	token = base64.RawURLEncoding.AppendEncode(token, payload)
	digest := sha256.Sum256(token)
	signature, err := key.signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return "", err
	}
	if key.algorithm == es256 {
		halves, err := signatureHalves(signature)
		if err != nil {
			return "", err
		}
		signature = halves[:]
	}
	return string(base64.RawURLEncoding.AppendEncode(append(token, '.'), signature)), nil
}

// signatureHalves turns an ECDSA signature of P-256 from its ASN.1 form, two
// integers in a sequence, into that of JWS: both in full.
func signatureHalves(der []byte) (halves [64]byte, err error) {
	malformed := errors.New("the signature is malformed")
	if len(der) < 2 || der[0] != 0x30 || int(der[1]) != len(der)-2 { // at most 72 bytes: one byte of length
		return halves, malformed
	}
	rest := der[2:]
	for _, half := range [][]byte{halves[:32], halves[32:]} {
		if len(rest) < 2 || rest[0] != 0x02 || int(rest[1]) > len(rest)-2 {
			return halves, malformed
		}
		n := rest[2 : 2+rest[1]]
		rest = rest[2+len(n):]
		if n = bytes.TrimLeft(n, "\x00"); len(n) > len(half) {
			return halves, malformed
		}
		copy(half[len(half)-len(n):], n)
	}
	if len(rest) > 0 {
		return halves, malformed
	}
	return halves, nil
}
