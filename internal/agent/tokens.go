package agent

import (
	"bytes"
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/usertoken"
)

// need says whose keys the points need now. The caller holds mu.
func (s *points) need() {
	needed := make(map[string]*pb.Provider)
	for p := range s.all {
		for _, provider := range p.slice.GetProviders() {
			needed[provider.GetName()] = provider
		}
	}
	s.needed(slices.Collect(maps.Values(needed)))
}

// know brings fetched keys to the points whose slices name their provider. They are
// asked for with the lock held: of two changes at once the later to arrive must not
// bring back what the other took away.
func (s *points) know(current func() map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = current()
	for p := range s.all {
		if len(p.slice.GetProviders()) > 0 {
			p.poke()
		}
	}
}

// untold is the next keys that a point does not have yet, nil for none. They come
// after the slice that names their provider: a point forgets those of others. The
// caller holds mu.
func (s *points) untold(p *point) *pb.ProviderKeys {
	for _, provider := range p.slice.GetProviders() {
		url := provider.GetJwksUrl()
		named := slices.ContainsFunc(p.named, func(m *pb.Provider) bool { return m.GetJwksUrl() == url })
		if now := s.keys[url]; named && url != "" && !bytes.Equal(now, p.told[url]) {
			if p.told == nil {
				p.told = make(map[string][]byte)
			}
			p.told[url] = now
			return &pb.ProviderKeys{Url: url, Jwks: now}
		}
	}
	return nil
}

// uses says whether a provider is one of the point's.
func (s *points) uses(p *point, provider string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(p.slice.GetProviders(), func(m *pb.Provider) bool { return m.GetName() == provider })
}

// needKeys has the keys of providers fetched. It does not block. One that cannot
// be read is fetched for nobody; its points refuse it and say so.
func (a *Agent) needKeys(providers []*pb.Provider) {
	var read []usertoken.Provider
	for _, m := range providers {
		if p, err := usertoken.FromPB(m); err == nil {
			read = append(read, p)
		}
	}
	a.keys.Need(read)
}

// keysChanged brings keys to the points and into the cache.
func (a *Agent) keysChanged() {
	a.points.know(a.keys.Keys)
	a.keep.stateChanged()
}

// missingKey is a point's word that a token names a key it does not have.
func (a *Agent) missingKey(p *point, m *pb.MissingKey) {
	if a.points.uses(p, m.GetProvider()) {
		a.keys.Missing(m.GetProvider(), cut(m.GetKeyId(), 1024))
	}
}

// providerStatus is how the fetching goes, for people.
func (a *Agent) providerStatus() []*pb.ProviderStatus {
	var out []*pb.ProviderStatus
	for _, s := range a.keys.Status() {
		m := &pb.ProviderStatus{Name: s.Provider, Keys: uint32(s.Keys)}
		if !s.Fetched.IsZero() {
			m.FetchedUnix = s.Fetched.Unix()
		}
		if s.Err != nil {
			m.Error, m.Hint = cut(s.Err.Error(), 512), fault.HintOf(s.Err)
		}
		out = append(out, m)
	}
	return out
}
