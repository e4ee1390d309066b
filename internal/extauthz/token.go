package extauthz

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// userToken is the end user's token of one question, checked when a condition
// first asks for it.
type userToken struct {
	p       *Point
	checker *usertoken.Checker
	carrier usertoken.Carrier
	leaf    *[sha256.Size]byte // nil if the proxy showed no certificate
	now     time.Time

	asked  bool
	state  policy.TokenState
	claims map[string]any
}

// Claims implements policy.Token.
func (t *userToken) Claims() (map[string]any, policy.TokenState) {
	if t.asked {
		return t.claims, t.state
	}
	t.asked = true
	token, err := t.checker.Check(t.carrier, t.leaf, t.now)
	var refused *usertoken.Refused
	switch {
	case err != nil:
		t.state = policy.TokenRefused
		if errors.As(err, &refused) && errors.Is(err, spiffe.ErrUnknownKey) {
			t.p.cfg.Missing(refused.Provider, refused.KeyID)
		}
	case token != nil:
		t.claims, t.state = token.Claims, policy.TokenValid
	}
	return t.claims, t.state
}
