package usertoken

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// maxRemembered bounds the tokens a Checker remembers. Beyond it, it begins
// anew: a token is only checked again.
const maxRemembered = 1024

// Checker checks the tokens of requests to one service and remembers the good
// ones, so that a user's second request costs a hash. Keys that change make a
// new Checker. The nil Checker knows no provider. It is safe for concurrent use.
type Checker struct {
	set  *Set
	keys map[string]*spiffe.JWKSet // by URL, so that those of a former place never count for the next

	mu   sync.Mutex
	good map[remembered]*Token // guarded by mu
}

type remembered struct {
	hash [sha256.Size]byte
	at   location
}

// NewChecker checks by the providers of a set and the keys that were fetched, by
// URL. Neither may change afterwards.
func NewChecker(set *Set, keys map[string]*spiffe.JWKSet) *Checker {
	return &Checker{set: set, keys: keys, good: make(map[remembered]*Token)}
}

// Providers are those the Checker knows.
func (c *Checker) Providers() *Set {
	if c == nil {
		return nil
	}
	return c.set
}

// Check is the token of a request and nil if it carries none. leaf is the hash of
// the caller's leaf certificate, nil for a caller without one. Any error is a
// token that must not count; one that names an unknown key is a [Refused] around
// [spiffe.ErrUnknownKey].
func (c *Checker) Check(carrier Carrier, leaf *[sha256.Size]byte, now time.Time) (*Token, error) {
	if c == nil {
		return nil, nil
	}
	found, err := c.set.Find(carrier)
	if err != nil || found.Text == "" {
		return nil, err
	}
	key := remembered{sha256.Sum256([]byte(found.Text)), found.at}
	c.mu.Lock()
	token := c.good[key]
	c.mu.Unlock()
	if token == nil || !token.GoodAt(now) {
		if token, err = c.set.check(found, c.keys, now); err != nil {
			return nil, err
		}
		c.mu.Lock()
		if len(c.good) >= maxRemembered {
			clear(c.good)
		}
		c.good[key] = token
		c.mu.Unlock()
	}
	if !token.boundTo(leaf) {
		return nil, errNotTheirs
	}
	return token, nil
}
