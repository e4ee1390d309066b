package ca

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
	id               spiffe.ID
	audience         []string
	issuedAt, expiry time.Time
	jti, keyID       string
}

// lintJWT reads what was signed as its receiver will - the signature included,
// by the bundle that is published - and holds it against the request. It says
// in other words what planJWT says: the two must agree.
func lintJWT(token string, bundle *spiffe.Bundle, now time.Time, want jwtExpectation) (lintedJWT, error) {
	svid, err := spiffe.ValidateJWT(token, spiffe.JWTCheck{
		Audiences: want.audience, Now: now, MaxLifetime: JWTLifetime,
		Bundle: func(td spiffe.TrustDomain) (*spiffe.Bundle, bool) { return bundle, td == bundle.TrustDomain() },
	})
	if err != nil {
		return lintedJWT{}, fmt.Errorf("lint: %w", err)
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
	}
	if err := lintJWTClaims(svid, want); err != nil {
		return lintedJWT{}, err
	}
	return lintedJWT{svid}, nil
}

// lintJWTClaims checks that there is no claim beside ours, and the header's
// three names are all there: ParseJWT lets typ be left out.
func lintJWTClaims(svid *spiffe.JWTSVID, want jwtExpectation) error {
	var claims map[string]json.RawMessage
	if err := json.Unmarshal(svid.ClaimsJSON(), &claims); err != nil {
		return fmt.Errorf("lint claims: %w", err)
	}
	if names := slices.Sorted(maps.Keys(claims)); !slices.Equal(names, []string{"aud", "exp", "iat", "jti", "sub"}) {
		return fmt.Errorf("lint claims: are %s", strings.Join(names, " "))
	}
	if string(claims["jti"]) != `"`+want.jti+`"` {
		return errors.New("lint jti: is not the journalled one")
	}
	return nil
}
