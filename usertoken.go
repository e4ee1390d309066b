package kith

import (
	"fmt"
	"maps"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// maxMissing is how many keys are asked for at a time; who asks twice is not
// heard twice.
const maxMissing = 8

// userToken is the end user's token of one request, as conditions see it.
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

// userToken is the request's, for who decides by this ruling.
func (w *Workload) userToken(ruling *ruling, request *Request, peer *Peer, now time.Time) *userToken {
	return &userToken{usertoken.Once{
		Checker: ruling.tokens, Carrier: usertoken.Carrier{Headers: request.Headers, Query: request.Query},
		Leaf: &peer.hash, Now: now, Missing: w.missingKey,
	}}
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

// forget drops the keys of providers that a slice does not name: the agent tells them
// again when they are back, and then as they are. It goes by what the slice says, also
// where that cannot be put in force, as the agent does who keeps account of what it
// has told. Only the goroutine of attach calls it.
func (w *Workload) forget(slice *pb.Slice) {
	keys := make(map[string]*spiffe.JWKSet)
	for _, m := range slice.GetProviders() {
		if set := w.keys[m.GetJwksUrl()]; set != nil {
			keys[m.GetJwksUrl()] = set
		}
	}
	w.keys = keys
}

// learn puts fetched keys in force; what is held by a token that they do not make
// good any more is cut. Only the goroutine of attach calls it.
func (w *Workload) learn(m *pb.ProviderKeys) {
	next := *w.policy.Load()
	keys := maps.Clone(w.keys) // checkers of before go on with theirs
	if keys == nil {
		keys = make(map[string]*spiffe.JWKSet)
	}
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
