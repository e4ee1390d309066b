package kith

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// maxMissing is how many keys are asked for at a time; who asks twice is not
// heard twice.
const maxMissing = 8

// userToken is the end user's token of one request, checked when a condition
// first asks for it.
type userToken struct {
	checker *usertoken.Checker
	carrier usertoken.Carrier
	leaf    *[sha256.Size]byte // of the caller
	now     time.Time
	missing func(provider, keyID string)

	asked  bool
	state  policy.TokenState
	claims map[string]any
	err    error // why it is refused
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
		t.state, t.err = policy.TokenRefused, err
		if errors.As(err, &refused) && errors.Is(err, spiffe.ErrUnknownKey) {
			t.missing(refused.Provider, refused.KeyID)
		}
	case token != nil:
		t.claims, t.state = token.Claims, policy.TokenValid
	}
	return t.claims, t.state
}

// userToken is the request's, for who decides by this ruling.
func (w *Workload) userToken(ruling *ruling, request *Request, peer *Peer, now time.Time) *userToken {
	return &userToken{
		checker: ruling.tokens, carrier: usertoken.Carrier{Headers: request.Headers, Query: request.Query},
		leaf: &peer.hash, now: now, missing: w.missingKey,
	}
}

// missingKey tells the agent of a key that a token names. It does not block.
func (w *Workload) missingKey(provider, keyID string) {
	select {
	case w.missing <- &pb.MissingKey{Provider: clip(provider, maxReportShort), KeyId: clip(keyID, maxReportText)}:
	default:
	}
}

// providersOf are a service's providers in a slice. One that cannot be read is an
// error: its tokens must not be taken for somebody else's.
func providersOf(slice *pb.Slice, service string) (*usertoken.Set, error) {
	var providers []usertoken.Provider
	for _, m := range slice.GetProviders() {
		p, err := usertoken.FromPB(m)
		if err != nil {
			return nil, err
		}
		providers = append(providers, p)
	}
	set, err := usertoken.Compile(providers, service)
	if err != nil {
		return nil, fmt.Errorf("providers of %s: %w", service, err)
	}
	return set, nil
}

// learn puts fetched keys in force; what is held by a token that they do not make
// good any more is cut. Only the goroutine of attach calls it.
func (w *Workload) learn(m *pb.ProviderKeys) {
	next := *w.policy.Load()
	keys := next.tokens.Providers().Wanted(w.keys) // those of other places go
	delete(keys, m.GetUrl())
	if len(m.GetJwks()) > 0 {
		set, err := spiffe.ParseJWKSet(m.GetJwks())
		if err != nil { // then none count
			w.cfg.Log.Error("provider keys refused", "url", m.GetUrl(), "error", err)
		} else {
			keys[m.GetUrl()] = set
		}
	}
	w.keys = keys
	next.tokens = usertoken.NewChecker(next.tokens.Providers(), keys)
	w.policy.Store(&next)
	w.live.decideAgain(w)
	w.cfg.Log.Debug("provider keys in force", "url", m.GetUrl(), "keys", keys[m.GetUrl()].Len())
}
