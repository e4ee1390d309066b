package spiffe

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const algEdDSA = "EdDSA"

// ErrUnknownKey says that a token names a key its issuer's set does not have:
// the set may be older than the key.
var ErrUnknownKey = errors.New("the issuer has no key of this kid")

// UserToken is a signed JWT that is no JWT-SVID: what a provider outside of the
// trust domain gave a person or a program. Whoever holds the text is taken for
// its subject, which is why it prints as its issuer alone. It is immutable.
type UserToken struct {
	// Issuer and Subject are iss and sub; sub may be empty.
	Issuer, Subject string
	// Audience is whom the token is meant for.
	Audience []string
	// Expiry is when it ends.
	Expiry time.Time

	issuedAt, notBefore time.Time
	alg, keyID          string
	claims              map[string]json.RawMessage
	signed              signedJWT
}

// UserTokenCheck is what a token must be to be accepted. All but Algorithms must
// be given.
type UserTokenCheck struct {
	// Issuer is iss, letter by letter: a slash at the end makes another one.
	Issuer string
	// Audiences are the names of whoever checks; the token must be for one.
	Audiences []string
	// Algorithms are those accepted; empty: the nine of JWT-SVIDs and EdDSA,
	// none of them symmetric.
	Algorithms []string
	// Keys are the issuer's own.
	Keys *JWKSet
	// Now is the time to check at.
	Now time.Time
}

// UserTokenAlgorithms are all that a token may be signed with.
func UserTokenAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", algEdDSA}
}

// ParseUserToken reads a token in JWS compact serialization, of at most 64 KiB,
// and checks its form. It verifies nothing, so what it returns is only good for
// finding out whose keys to check it with; that is [UserToken.Check].
//
// The form is as strict as [ParseJWT]'s, but for the header: typ may also be
// at+jwt (RFC 9068), kid may be missing, and members that only describe the key
// are ignored. Refused are crit, b64, zip and cty, which change what the rest
// means, and jwk, jku, x5u and x5c, by which a token would bring its own key.
func ParseUserToken(text string) (*UserToken, error) {
	signed, err := splitJWT(text)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	t := &UserToken{signed: signed}
	if err := t.parseHeader(); err != nil {
		return nil, fmt.Errorf("token header: %w", err)
	}
	if err := t.parseClaims(); err != nil {
		return nil, fmt.Errorf("token claims: %w", err)
	}
	return t, nil
}

// Check verifies the signature by one of the issuer's keys, then issuer,
// audience and times.
func (t *UserToken) Check(check UserTokenCheck) error {
	switch {
	case check.Now.IsZero() || check.Keys == nil || len(check.Audiences) == 0 || check.Issuer == "":
		return errors.New("check of a token without issuer, audience, keys or time")
	case t.Issuer != check.Issuer:
		return fmt.Errorf("token is of issuer %q, not %q", clip(t.Issuer), clip(check.Issuer))
	case len(check.Algorithms) > 0 && !slices.Contains(check.Algorithms, t.alg):
		return fmt.Errorf("token of %s: alg %s is not one of %s", clip(t.Issuer), t.alg, strings.Join(check.Algorithms, ", "))
	}
	if err := t.verify(check.Keys); err != nil {
		return fmt.Errorf("token of %s: %w", clip(t.Issuer), err)
	}
	if err := t.timely(check.Now); err != nil {
		return fmt.Errorf("token of %s: %w", clip(t.Issuer), err)
	}
	if !slices.ContainsFunc(t.Audience, func(name string) bool { return slices.Contains(check.Audiences, name) }) {
		return fmt.Errorf("token of %s: is for %q, not for %q", clip(t.Issuer), clip(t.Audience[0]), clip(check.Audiences[0]))
	}
	return nil
}

// GoodAt says whether the times of a token that was checked still hold.
func (t *UserToken) GoodAt(now time.Time) bool { return t.timely(now) == nil }

// timely checks the three times against the clock. RFC 7519 4.1.
func (t *UserToken) timely(now time.Time) error {
	switch {
	case !now.Before(t.Expiry.Add(JWTLeeway)):
		return fmt.Errorf("ended at %s", t.Expiry.Format(time.RFC3339))
	case t.notBefore.After(now.Add(JWTLeeway)):
		return fmt.Errorf("does not begin before %s", t.notBefore.Format(time.RFC3339))
	case t.issuedAt.After(now.Add(JWTLeeway)):
		return fmt.Errorf("was issued at %s, which is to come", t.issuedAt.Format(time.RFC3339))
	}
	return nil
}

func (t *UserToken) verify(keys *JWKSet) error {
	key, err := keys.find(t.keyID, t.alg)
	if err != nil {
		return err
	}
	if public, ok := key.public.(ed25519.PublicKey); ok {
		if !ed25519.Verify(public, []byte(t.signed.content), t.signed.signature) {
			return errors.New("the signature is not that of the issuer's key")
		}
		return nil
	}
	return t.signed.verify(JWTKey{ID: key.id, Public: key.public})
}

// KeyID is the kid of the key the token says it is signed with, often the only
// one its issuer has, and then it may be empty.
func (t *UserToken) KeyID() string { return t.keyID }

// Algorithm is the alg by which the token says it is signed.
func (t *UserToken) Algorithm() string { return t.alg }

// IssuedAt is the token's iat, the zero time if it has none.
func (t *UserToken) IssuedAt() time.Time { return t.issuedAt }

// Claim is one claim as it was signed, nil if there is none of that name.
func (t *UserToken) Claim(name string) json.RawMessage { return slices.Clone(t.claims[name]) }

// Claims is everything the token says, numbers as json.Number. The map is the
// caller's.
func (t *UserToken) Claims() map[string]any {
	claims := make(map[string]any)
	decoder := json.NewDecoder(bytes.NewReader(t.signed.payload))
	decoder.UseNumber()
	_ = decoder.Decode(&claims) // read once already, by ParseUserToken
	return claims
}

// String says whose token it is, and never the token.
func (t *UserToken) String() string { return "token of " + clip(t.Issuer) }

// Format is String for every verb, %+v and %#v included.
func (t *UserToken) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// LogValue keeps the token out of logs.
func (t *UserToken) LogValue() slog.Value { return slog.StringValue(t.String()) }

func (t *UserToken) parseHeader() error {
	header, err := parseStrict(t.signed.header)
	if err != nil {
		return err
	}
	for _, name := range []string{"crit", "b64", "zip", "cty", "jwk", "jku", "x5u", "x5c", "epk", "enc"} {
		if _, ok := header[name]; ok {
			return fmt.Errorf("has %q, which is not accepted", name)
		}
	}
	var ok bool
	if t.alg, ok = stringOf(header["alg"]); !ok || !slices.Contains(UserTokenAlgorithms(), t.alg) {
		return fmt.Errorf("alg %s is not one of those allowed", clip(string(header["alg"])))
	}
	if t.alg != algEdDSA {
		if t.signed.alg, err = parseAlgorithm(t.alg); err != nil {
			return err
		}
	}
	if raw, there := header["kid"]; there {
		if t.keyID, ok = stringOf(raw); !ok || t.keyID == "" || len(t.keyID) > maxKeyID {
			return fmt.Errorf("kid is not a text of 1 to %d bytes", maxKeyID)
		}
	}
	if raw, there := header["typ"]; there {
		// RFC 8725 3.11: a token of another kind, as for logging out, is no access token.
		typ, _ := stringOf(raw)
		switch typ = strings.TrimPrefix(strings.ToLower(typ), "application/"); typ {
		case "jwt", "at+jwt", "jose":
		default:
			return fmt.Errorf("typ %s is neither JWT nor at+jwt", clip(string(raw)))
		}
	}
	return nil
}

func (t *UserToken) parseClaims() error {
	claims, err := parseStrict(t.signed.payload)
	if err != nil {
		return err
	}
	t.claims = claims
	var ok bool
	if t.Issuer, ok = stringOf(claims["iss"]); !ok || t.Issuer == "" {
		return errors.New("iss is missing or not a text")
	}
	if raw, there := claims["sub"]; there {
		if t.Subject, ok = stringOf(raw); !ok {
			return errors.New("sub is not a text")
		}
	}
	if t.Audience, err = parseAudience(claims["aud"]); err != nil {
		return err
	}
	if _, ok := claims["exp"]; !ok {
		return errors.New("exp is missing: it would never end")
	}
	for _, claim := range []struct {
		name string
		at   *time.Time
	}{{"exp", &t.Expiry}, {"nbf", &t.notBefore}, {"iat", &t.issuedAt}} {
		if *claim.at, err = parseSeconds(claims, claim.name); err != nil {
			return err
		}
	}
	return nil
}
