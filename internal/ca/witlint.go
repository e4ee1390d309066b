package ca

import (
	"crypto"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// witExpectation is what a token was asked to be.
type witExpectation struct {
	id                 spiffe.ID
	public             crypto.PublicKey
	notBefore, expires time.Time
	issuedAt           time.Time
	jti, keyID         string
}

// lintWIT reads what was signed as its receiver will and holds it against the
// request, as lintJWT does.
func lintWIT(token string, want witExpectation) (linted[spiffe.WITSVID], error) {
	svid, err := spiffe.ParseWIT(token)
	if err != nil {
		return linted[spiffe.WITSVID]{}, fmt.Errorf("lint parse: %w", err)
	}
	public, ok := want.public.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case svid.ID != want.id:
		return linted[spiffe.WITSVID]{}, fmt.Errorf("lint sub: is %s, not %s", svid.ID, want.id)
	case !ok || !public.Equal(svid.PublicKey()):
		return linted[spiffe.WITSVID]{}, errors.New("lint cnf: is not the key that was asked for")
	case !svid.NotBefore.Equal(want.notBefore) || !svid.IssuedAt.Equal(want.issuedAt) || !svid.Expiry.Equal(want.expires):
		return linted[spiffe.WITSVID]{}, fmt.Errorf("lint validity: is %s to %s, not %s to %s", svid.NotBefore, svid.Expiry, want.notBefore, want.expires)
	case svid.KeyID() != want.keyID:
		return linted[spiffe.WITSVID]{}, errors.New("lint kid: is not that of the signing key")
	case svid.Algorithm() != es256:
		return linted[spiffe.WITSVID]{}, fmt.Errorf("lint alg: is %s, not %s", svid.Algorithm(), es256)
	case string(svid.Claim("jti")) != `"`+want.jti+`"`:
		return linted[spiffe.WITSVID]{}, errors.New("lint jti: is not the journalled one")
	}
	if names := svid.ClaimNames(); !slices.Equal(names, []string{"cnf", "exp", "iat", "jti", "nbf", "sub"}) {
		return linted[spiffe.WITSVID]{}, fmt.Errorf("lint claims: are %s", strings.Join(names, " "))
	}
	return linted[spiffe.WITSVID]{svid}, nil
}
