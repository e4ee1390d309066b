package spiffe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// The clock and size limits of JWT-SVIDs.
const (
	// JWTLeeway is how far this clock may differ from the signer's: a token
	// counts that ended less than this ago, or begins less than this from now.
	// It is the leeway of go-spiffe, so that both judge a token alike.
	JWTLeeway = time.Minute
	// DefaultJWTLifetime is how long a token may live at most where
	// [JWTCheck] says nothing else.
	DefaultJWTLifetime = 24 * time.Hour

	maxTokenBytes  = 64 << 10
	maxHeaderBytes = 4 << 10 // encoded
	maxKeyID       = 1024
	maxAudiences   = 64
)

// JWTSVID is an identity document as a bearer token: whoever holds the text is
// taken for the ID, which is why it prints as its ID alone. It is immutable.
type JWTSVID struct {
	// ID is the identity the token is for.
	ID ID
	// Audience is whom the token is meant for; others refuse it.
	Audience []string
	// Expiry is when it ends, IssuedAt when it was made; the latter is zero
	// if the token does not say.
	Expiry, IssuedAt time.Time
	// Hint is the operator's word for what this SVID is for, often empty.
	Hint string

	token     string
	notBefore time.Time
	claims    map[string]json.RawMessage
	signed    signedJWT
}

// JWTCheck is what a token must be to be accepted. All but MaxLifetime must be
// given.
type JWTCheck struct {
	// Audiences are the names of whoever checks; the token must be for one of
	// them, letter by letter.
	Audiences []string
	// Bundle is asked for the bundle of the subject's trust domain.
	Bundle func(TrustDomain) (*Bundle, bool)
	// Now is the time to check at.
	Now time.Time
	// MaxLifetime is the longest life that is accepted, counted from the token's
	// iat and from Now; 0 is DefaultJWTLifetime.
	MaxLifetime time.Duration
}

// ParseJWT reads a JWT-SVID in JWS compact serialization, of at most 64 KiB,
// and checks its form. It verifies no signature and looks at no clock, so what
// it returns proves nothing; that is [ValidateJWT]'s work.
//
// Accepted is what the standard allows to be issued:
//   - three parts in strict base64url: no padding, no white space, no spare
//     bits;
//   - a header of alg, kid and typ alone. alg is one of the nine of the
//     standard, typ JWT or JOSE if there, and kid is there: the standard leaves
//     it out of its musts, but without it one key would have to be guessed;
//   - header and claims in which no name occurs twice, at any depth;
//   - sub, a SPIFFE ID with a path; aud, at least one name; exp, and nbf and
//     iat if there, as whole seconds.
func ParseJWT(token string) (*JWTSVID, error) {
	signed, err := splitJWT(token)
	if err != nil {
		return nil, fmt.Errorf("JWT-SVID: %w", err)
	}
	s := &JWTSVID{token: token, signed: signed}
	if err := s.signed.parseHeader(); err != nil {
		return nil, fmt.Errorf("JWT-SVID header: %w", err)
	}
	if err := s.parseClaims(); err != nil {
		return nil, fmt.Errorf("JWT-SVID claims: %w", err)
	}
	return s, nil
}

// ValidateJWT checks a token that somebody has presented and returns whose it
// is. It is looked up in the bundle of its subject's own trust domain, among
// the keys for JWT-SVIDs, by its kid and no other trait; and the key must be
// of the kind that the token's alg is for.
func ValidateJWT(token string, check JWTCheck) (*JWTSVID, error) {
	if check.Now.IsZero() || check.Bundle == nil || len(check.Audiences) == 0 {
		return nil, errors.New("check of a JWT-SVID without audience, bundle or time")
	}
	s, err := ParseJWT(token)
	if err != nil {
		return nil, err
	}
	if err := s.signed.verifyIn(check.Bundle, s.ID.TrustDomain(), func(b *Bundle) []JWTKey { return b.jwtKeys }, "JWT-SVIDs"); err != nil {
		return nil, fmt.Errorf("JWT-SVID of %s: %w", s.ID, err)
	}
	if err := s.timely(check.Now, check.MaxLifetime); err != nil {
		return nil, fmt.Errorf("JWT-SVID of %s: %w", s.ID, err)
	}
	if !slices.ContainsFunc(s.Audience, func(name string) bool { return slices.Contains(check.Audiences, name) }) {
		return nil, fmt.Errorf("JWT-SVID of %s: is for %q, not for %q", s.ID, clip(s.Audience[0]), clip(check.Audiences[0])) // JWT-SVID 3.2
	}
	return s, nil
}

// Token is the token itself: a secret until it ends.
func (s *JWTSVID) Token() string { return s.token }

// KeyID is the kid of the key the token says it is signed with.
func (s *JWTSVID) KeyID() string { return s.signed.keyID }

// Algorithm is the alg by which the token says it is signed.
func (s *JWTSVID) Algorithm() string { return s.signed.alg.name }

// Claims is everything the token says, numbers as json.Number. The map is the
// caller's.
func (s *JWTSVID) Claims() map[string]any {
	claims := make(map[string]any)
	decoder := json.NewDecoder(bytes.NewReader(s.signed.payload))
	decoder.UseNumber()
	_ = decoder.Decode(&claims) // read once already, by ParseJWT
	return claims
}

// Claim is one claim as it was signed, nil if there is none of that name.
func (s *JWTSVID) Claim(name string) json.RawMessage { return slices.Clone(s.claims[name]) }

// ClaimNames are the names of all claims, sorted.
func (s *JWTSVID) ClaimNames() []string { return slices.Sorted(maps.Keys(s.claims)) }

// ClaimsJSON is the claims as they were signed.
func (s *JWTSVID) ClaimsJSON() []byte { return slices.Clone(s.signed.payload) }

// String says whose token it is, and never the token.
func (s *JWTSVID) String() string { return "JWT-SVID of " + s.ID.String() }

// Format is String for every verb, %+v and %#v included.
func (s *JWTSVID) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue keeps the token out of logs.
func (s *JWTSVID) LogValue() slog.Value { return slog.StringValue(s.String()) }

// timely checks the three times against the clock. JWT-SVID 3.3, RFC 7519 4.1.
func (s *JWTSVID) timely(now time.Time, longest time.Duration) error {
	if longest <= 0 {
		longest = DefaultJWTLifetime
	}
	switch {
	case !now.Before(s.Expiry.Add(JWTLeeway)):
		return fmt.Errorf("ended at %s", s.Expiry.Format(time.RFC3339))
	case s.notBefore.After(now.Add(JWTLeeway)):
		return fmt.Errorf("does not begin before %s", s.notBefore.Format(time.RFC3339))
	case s.IssuedAt.After(now.Add(JWTLeeway)):
		return fmt.Errorf("was issued at %s, which is to come", s.IssuedAt.Format(time.RFC3339))
	case s.Expiry.Sub(now) > longest+JWTLeeway || !s.IssuedAt.IsZero() && s.Expiry.Sub(s.IssuedAt) > longest:
		return fmt.Errorf("lives until %s, longer than %s", s.Expiry.Format(time.RFC3339), longest)
	}
	return nil
}

func (s *JWTSVID) parseClaims() error {
	claims, err := parseStrict(s.signed.payload)
	if err != nil {
		return err
	}
	s.claims = claims
	subject, ok := stringOf(claims["sub"])
	if !ok {
		return errors.New("sub is missing or not a text") // JWT-SVID 3.1
	}
	if s.ID, err = ParseID(subject); err != nil {
		return fmt.Errorf("sub: %w", err)
	}
	if s.ID.Path() == "" {
		return fmt.Errorf("sub: %s has no path, so it is not a workload's", s.ID)
	}
	if s.Audience, err = parseAudience(claims["aud"]); err != nil {
		return err
	}
	if _, ok := claims["exp"]; !ok {
		return errors.New("exp is missing") // JWT-SVID 3.3
	}
	for _, claim := range []struct {
		name string
		at   *time.Time
	}{{"exp", &s.Expiry}, {"nbf", &s.notBefore}, {"iat", &s.IssuedAt}} {
		if *claim.at, err = parseSeconds(claims, claim.name); err != nil {
			return err
		}
	}
	return nil
}

// parseAudience reads one name or a list of them. JWT-SVID 3.2, RFC 7519 4.1.3.
func parseAudience(raw json.RawMessage) ([]string, error) {
	if one, ok := stringOf(raw); ok && one != "" {
		return []string{one}, nil
	}
	var list []json.RawMessage
	if raw == nil || json.Unmarshal(raw, &list) != nil || len(list) == 0 || len(list) > maxAudiences {
		return nil, fmt.Errorf("aud is not a text or a list of 1 to %d", maxAudiences)
	}
	names := make([]string, len(list))
	for i, entry := range list {
		name, ok := stringOf(entry)
		if !ok || name == "" {
			return nil, errors.New("aud has an entry that is not a text or empty")
		}
		names[i] = name
	}
	return names, nil
}

// parseSeconds reads a time; none is zero. Fractions and exponents are refused:
// nobody needs them, and no two programs round them alike.
func parseSeconds(claims map[string]json.RawMessage, name string) (time.Time, error) {
	if _, ok := claims[name]; !ok {
		return time.Time{}, nil
	}
	const endOfYear9999 = 253402300799
	seconds, err := parseInteger(claims, name, endOfYear9999)
	if err != nil || seconds == 0 {
		return time.Time{}, fmt.Errorf("%s is not a time in whole seconds", name)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}
