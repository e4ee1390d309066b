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
func lintJWT(token string, want jwtExpectation) (linted[spiffe.JWTSVID], error) {
	svid, err := spiffe.ParseJWT(token)
	if err != nil {
		return linted[spiffe.JWTSVID]{}, fmt.Errorf("lint parse: %w", err)
	}
	switch {
	case svid.ID != want.id:
		return linted[spiffe.JWTSVID]{}, fmt.Errorf("lint sub: is %s, not %s", svid.ID, want.id)
	case !slices.Equal(svid.Audience, want.audience):
		return linted[spiffe.JWTSVID]{}, fmt.Errorf("lint aud: is %q, not %q", svid.Audience, want.audience)
	case !svid.IssuedAt.Equal(want.issuedAt) || !svid.Expiry.Equal(want.expiry):
		return linted[spiffe.JWTSVID]{}, fmt.Errorf("lint validity: is %s to %s, not %s to %s", svid.IssuedAt, svid.Expiry, want.issuedAt, want.expiry)
	case svid.KeyID() != want.keyID:
		return linted[spiffe.JWTSVID]{}, errors.New("lint kid: is not that of the signing key")
	case svid.Algorithm() != want.algorithm:
		return linted[spiffe.JWTSVID]{}, fmt.Errorf("lint alg: is %s, not %s", svid.Algorithm(), want.algorithm)
	case string(svid.Claim("jti")) != `"`+want.jti+`"`:
		return linted[spiffe.JWTSVID]{}, errors.New("lint jti: is not the journalled one")
	}
	names := []string{"aud", "exp", "iat", "jti", "sub"}
	if want.issuer != "" {
		names = []string{"aud", "exp", "iat", "iss", "jti", "sub"}
		var issuer string
		if err := json.Unmarshal(svid.Claim("iss"), &issuer); err != nil || issuer != want.issuer {
			return linted[spiffe.JWTSVID]{}, errors.New("lint iss: is not the configured one")
		}
	}
	if got := svid.ClaimNames(); !slices.Equal(got, names) {
		return linted[spiffe.JWTSVID]{}, fmt.Errorf("lint claims: are %s", strings.Join(got, " "))
	}
	return linted[spiffe.JWTSVID]{svid}, nil
}

// provesItself signs once with a key and verifies that as a peer will, before
// the key is used: what goes wrong with a key goes wrong with all it signs.
func (k jwtKey) provesItself(td spiffe.TrustDomain) error {
	now, audience := time.Unix(1, 0), []string{"self-test"}
	claims := jwtClaims{Subject: td.ID().String() + "/kith/self-test", Expiry: now.Unix() + 1, ID: "self-test"}
	publish, bundle := spiffe.NewBundle(td, 0, 0).WithJWTKeys, (*spiffe.Bundle)(nil)
	bundles := func(of spiffe.TrustDomain) (*spiffe.Bundle, bool) { return bundle, of == td }
	validate := func(token string) (err error) {
		_, err = spiffe.ValidateJWT(token, spiffe.JWTCheck{Audiences: audience, Now: now, Bundle: bundles})
		return err
	}
	if k.use == forWIT {
		jwk, err := spiffe.MarshalProofJWK(k.public)
		if err != nil {
			return err
		}
		claims.Holder, publish = &confirmation{jwk}, spiffe.NewBundle(td, 0, 0).WithWITKeys
		validate = func(token string) error {
			_, err := spiffe.ValidateWIT(token, spiffe.WITCheck{Now: now, Bundle: bundles})
			return err
		}
	} else {
		claims.Audience = audience
	}
	token, err := encodeJWT(k, claims)
	if err != nil {
		return err
	}
	if bundle, err = publish(spiffe.JWTKey{ID: k.id, Public: k.public, Algorithm: k.algorithm}); err != nil {
		return err
	}
	return validate(token)
}
