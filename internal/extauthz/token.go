package extauthz

import (
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
)

// userToken is the end user's token of one question, as conditions see it.
type userToken struct{ usertoken.Once }

// Claims implements policy.Token.
func (t *userToken) Claims() (map[string]any, policy.TokenState) {
	token, err := t.Check()
	switch {
	case err != nil:
		return nil, policy.TokenRefused
	case token == nil:
		return nil, policy.TokenNone
	}
	return token.Claims, policy.TokenValid
}
