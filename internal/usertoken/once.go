package usertoken

import (
	"crypto/sha256"
	"errors"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// Once is the token of one request, checked when it is first asked for: most
// requests meet no condition on it. It is for one goroutine.
type Once struct {
	Checker *Checker
	Carrier Carrier
	Leaf    *[sha256.Size]byte // hash of the caller's leaf; nil without one
	Now     time.Time
	Missing func(provider, keyID string) // hears of a key nobody has; must not block

	asked bool
	token *Token
	err   error
}

// Check is what [Checker.Check] said.
func (o *Once) Check() (*Token, error) {
	if o.asked {
		return o.token, o.err
	}
	o.asked = true
	o.token, o.err = o.Checker.Check(o.Carrier, o.Leaf, o.Now)
	if refused := (*Refused)(nil); errors.As(o.err, &refused) && errors.Is(o.err, spiffe.ErrUnknownKey) {
		o.Missing(refused.Provider, refused.KeyID)
	}
	return o.token, o.err
}
