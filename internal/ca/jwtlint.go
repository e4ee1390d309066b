package ca

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// lintedJWT is a token that may leave the process. Only this file makes one,
// out of the text that was signed.
type lintedJWT struct{ svid *spiffe.JWTSVID }

// jwtExpectation is what a token was asked to be.
type jwtExpectation struct {
	issuer           string // empty: the token names none
	id               spiffe.ID
	audience         []string
	issuedAt, expiry time.Time
	jti, keyID       string
	algorithm        string
}

// lintJWT reads what was signed as its receiver will and holds it against the
// request. It says in other words what planJWT says: the two must agree. The
// signature it does not verify, see DESIGN.md.
func lintJWT(token string, want jwtExpectation) (lintedJWT, error) {
	svid, err := spiffe.ParseJWT(token)
	if err != nil {
		return lintedJWT{}, fmt.Errorf("lint parse: %w", err)
	}
	switch {
	case svid.ID != want.id:
		return lintedJWT{}, fmt.Errorf("lint sub: is %s, not %s", svid.ID, want.id)
	case !slices.Equal(svid.Audience, want.audience):
		return lintedJWT{}, fmt.Errorf("lint aud: is %q, not %q", svid.Audience, want.audience)
	case !svid.IssuedAt.Equal(want.issuedAt) || !svid.Expiry.Equal(want.expiry):
		return lintedJWT{}, fmt.Errorf("lint validity: is %s to %s, not %s to %s", svid.IssuedAt, svid.Expiry, want.issuedAt, want.expiry)
	case svid.KeyID() != want.keyID:
		return lintedJWT{}, errors.New("lint kid: is not that of the signing key")
	case svid.Algorithm() != want.algorithm:
		return lintedJWT{}, fmt.Errorf("lint alg: is %s, not %s", svid.Algorithm(), want.algorithm)
	case string(svid.Claim("jti")) != `"`+want.jti+`"`:
		return lintedJWT{}, errors.New("lint jti: is not the journalled one")
	}
	names := []string{"aud", "exp", "iat", "jti", "sub"}
	if want.issuer != "" {
		names = []string{"aud", "exp", "iat", "iss", "jti", "sub"}
		var issuer string
		if err := json.Unmarshal(svid.Claim("iss"), &issuer); err != nil || issuer != want.issuer {
			return lintedJWT{}, errors.New("lint iss: is not the configured one")
		}
	}
	if got := svid.ClaimNames(); !slices.Equal(got, names) {
		return lintedJWT{}, fmt.Errorf("lint claims: are %s", strings.Join(got, " "))
	}
	return lintedJWT{svid}, nil
}

// provesItself signs once with a key and verifies that as a peer will, before
// the key is used: what goes wrong with a key goes wrong with all it signs.
func (k jwtKey) provesItself(td spiffe.TrustDomain) error {
	if k.use == forWIT {
		return k.provesItselfByWIT(td)
	}
	now := time.Unix(1, 0)
	token, err := encodeJWT(k, jwtClaims{Subject: td.ID().String() + "/kith/self-test", Audience: []string{"self-test"}, Expiry: now.Unix() + 1})
	if err != nil {
		return err
	}
	bundle, err := spiffe.NewBundle(td, 0, 0).WithJWTKeys(spiffe.JWTKey{ID: k.id, Public: k.public, Algorithm: k.algorithm})
	if err != nil {
		return err
	}
	_, err = spiffe.ValidateJWT(token, spiffe.JWTCheck{
		Audiences: []string{"self-test"}, Now: now,
		Bundle: func(of spiffe.TrustDomain) (*spiffe.Bundle, bool) { return bundle, of == td },
	})
	return err
}
