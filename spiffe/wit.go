package spiffe

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// typWIT is the typ of a WIT-SVID, which no other kind of SVID has.
const typWIT = "wit+jwt"

// DefaultWITLifetime is how long a WIT-SVID may live at most where [WITCheck]
// says nothing else.
const DefaultWITLifetime = 24 * time.Hour

// WITSVID is an identity document as a token that is bound to a key: whoever
// proves to hold the key is the ID, and the text alone is nobody. So it is no
// answer to the question who is calling; a proof that [WITSVID.VerifyProof]
// accepts, over something that belongs to the request, is. It is immutable.
type WITSVID struct {
	// ID is the identity the token is for.
	ID ID
	// Expiry is when it ends, NotBefore when it begins and IssuedAt when it was
	// made; the latter two are zero if the token does not say.
	Expiry, NotBefore, IssuedAt time.Time
	// Hint is the operator's word for what this SVID is for, often empty.
	Hint string

	token  string
	claims map[string]json.RawMessage
	signed signedJWT
	holder proofKey
	own    *ProofKey // nil but for the one who holds it
}

// WITCheck is what a WIT-SVID must be to be accepted. All but MaxLifetime must
// be given.
type WITCheck struct {
	// Bundle is asked for the bundle of the subject's trust domain.
	Bundle func(TrustDomain) (*Bundle, bool)
	// Now is the time to check at.
	Now time.Time
	// MaxLifetime is the longest life that is accepted, counted from the token's
	// nbf and from Now; 0 is DefaultWITLifetime.
	MaxLifetime time.Duration
}

// ParseWIT reads a WIT-SVID in JWS compact serialization, of at most 64 KiB, and
// checks its form. It verifies no signature and looks at no clock, so what it
// returns proves nothing; that is [ValidateWIT]'s work.
//
// The form is as strict as [ParseJWT]'s: strict base64url, one of the nine
// algorithms, no name twice. Other than there typ must be wit+jwt, parameters of
// the header that are not known are ignored unless crit names them, aud must not
// be there, and cnf must hold one public key with the algorithm it is for.
func ParseWIT(token string) (*WITSVID, error) {
	signed, err := splitJWT(token)
	if err != nil {
		return nil, fmt.Errorf("WIT-SVID: %w", err)
	}
	s := &WITSVID{token: token, signed: signed}
	if err := s.parseHeader(); err != nil {
		return nil, fmt.Errorf("WIT-SVID header: %w", err)
	}
	if err := s.parseClaims(); err != nil {
		return nil, fmt.Errorf("WIT-SVID claims: %w", err)
	}
	return s, nil
}

// ValidateWIT checks that a trust domain has issued a token and that it counts
// now. It does not say that whoever has shown it is its subject: that takes a
// proof of the key, which [WITSVID.VerifyProof] checks. The key it was signed
// with is looked up in the bundle of its subject's own trust domain, among the
// keys for WIT-SVIDs, by its kid and no other trait.
func ValidateWIT(token string, check WITCheck) (*WITSVID, error) {
	if check.Now.IsZero() || check.Bundle == nil {
		return nil, errors.New("check of a WIT-SVID without bundle or time")
	}
	s, err := ParseWIT(token)
	if err != nil {
		return nil, err
	}
	if err := s.signed.verifyIn(check.Bundle, s.ID.TrustDomain(), func(b *Bundle) []JWTKey { return b.witKeys }, "WIT-SVIDs"); err != nil {
		return nil, fmt.Errorf("WIT-SVID of %s: %w", s.ID, err)
	}
	if err := s.timely(check.Now, check.MaxLifetime); err != nil {
		return nil, fmt.Errorf("WIT-SVID of %s: %w", s.ID, err)
	}
	return s, nil
}

// Token is the token itself. It is no secret as a bearer token is, but it says
// who calls whom to whoever reads it.
func (s *WITSVID) Token() string { return s.token }

// KeyID is the kid of the key the token says it is signed with.
func (s *WITSVID) KeyID() string { return s.signed.keyID }

// Algorithm is the alg by which the token says it is signed.
func (s *WITSVID) Algorithm() string { return s.signed.alg.name }

// Claim is one claim as it was signed, nil if there is none of that name.
func (s *WITSVID) Claim(name string) json.RawMessage { return slices.Clone(s.claims[name]) }

// ClaimNames are the names of all claims, sorted.
func (s *WITSVID) ClaimNames() []string { return slices.Sorted(maps.Keys(s.claims)) }

// GoodAt says whether the times of a token that was validated still hold.
func (s *WITSVID) GoodAt(now time.Time) bool { return s.timely(now, 0) == nil }

// String says whose token it is, and never the token.
func (s *WITSVID) String() string { return "WIT-SVID of " + s.ID.String() }

// Format is String for every verb, %+v and %#v included.
func (s *WITSVID) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue keeps token and key out of logs.
func (s *WITSVID) LogValue() slog.Value { return slog.StringValue(s.String()) }

func (s *WITSVID) parseHeader() error {
	header, err := parseStrict(s.signed.header)
	if err != nil {
		return err
	}
	if _, ok := header["crit"]; ok {
		return errors.New("has critical extensions, and none is known") // RFC 7515 4.1.11
	}
	if _, ok := header["b64"]; ok { // RFC 7797: only counts in crit, and changes what is signed
		return errors.New("has b64, which is not accepted")
	}
	name, ok := stringOf(header["alg"])
	if s.signed.alg, err = parseAlgorithm(name); !ok || err != nil {
		return fmt.Errorf("alg %s is not one of the nine allowed", clip(string(header["alg"]))) // WIT-SVID 2.3
	}
	if s.signed.keyID, ok = stringOf(header["kid"]); !ok || s.signed.keyID == "" || len(s.signed.keyID) > maxKeyID {
		return fmt.Errorf("kid is not a text of 1 to %d bytes", maxKeyID) // WIT-SVID 2.1
	}
	if typ, _ := stringOf(header["typ"]); typ != typWIT {
		return fmt.Errorf("typ %s is not %s", clip(string(header["typ"])), typWIT) // WIT-SVID 2.2
	}
	return nil
}

func (s *WITSVID) parseClaims() error {
	claims, err := parseStrict(s.signed.payload)
	if err != nil {
		return err
	}
	s.claims = claims
	subject, ok := stringOf(claims["sub"])
	if !ok {
		return errors.New("sub is missing or not a text") // WIT-SVID 3.1
	}
	if s.ID, err = ParseID(subject); err != nil {
		return fmt.Errorf("sub: %w", err)
	}
	if s.ID.Path() == "" {
		return fmt.Errorf("sub: %s has no path, so it is not a workload's", s.ID)
	}
	if _, ok := claims["aud"]; ok {
		return errors.New("has aud: a WIT-SVID is for nobody in particular") // WIT-SVID 3.8
	}
	if _, ok := claims["exp"]; !ok {
		return errors.New("exp is missing") // WIT-SVID 3.4
	}
	if raw, ok := claims["jti"]; ok {
		if id, ok := stringOf(raw); !ok || id == "" || len(id) > maxKeyID {
			return fmt.Errorf("jti is not a text of 1 to %d bytes", maxKeyID)
		}
	}
	for _, claim := range []struct {
		name string
		at   *time.Time
	}{{"exp", &s.Expiry}, {"nbf", &s.NotBefore}, {"iat", &s.IssuedAt}} {
		if *claim.at, err = parseSeconds(claims, claim.name); err != nil {
			return err
		}
	}
	s.holder, err = parseConfirmation(claims["cnf"])
	return err
}

// timely checks exp and nbf against the clock. iat plays no part: WIT-SVID 3.6.
func (s *WITSVID) timely(now time.Time, longest time.Duration) error {
	if longest <= 0 {
		longest = DefaultWITLifetime
	}
	switch {
	case !now.Before(s.Expiry.Add(JWTLeeway)):
		return fmt.Errorf("ended at %s", s.Expiry.Format(time.RFC3339))
	case s.NotBefore.After(now.Add(JWTLeeway)):
		return fmt.Errorf("does not begin before %s", s.NotBefore.Format(time.RFC3339))
	case s.Expiry.Sub(now) > longest+JWTLeeway || !s.NotBefore.IsZero() && s.Expiry.Sub(s.NotBefore) > longest+JWTLeeway:
		return fmt.Errorf("lives until %s, longer than %s", s.Expiry.Format(time.RFC3339), longest)
	}
	return nil
}
