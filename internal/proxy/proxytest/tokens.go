package proxytest

import (
	"slices"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/pb"
)

// tokens are the providers of user tokens, the keys fetched of them, and the keys
// that enforcement points have asked for.
type tokens struct {
	providers []*pb.Provider
	keys      map[string]string // by URL
	missing   []*pb.MissingKey
}

// Providers replaces the providers and the keys fetched of them, by URL, and
// returns once every enforcement point has acked. As an agent does, it tells keys
// that are others than before of providers that there are, and nothing of those
// that are gone.
func (a *Agent) Providers(keys map[string]string, providers ...*pb.Provider) {
	a.t.Helper()
	a.Change(func() {
		a.tokens.providers, a.tokens.keys = providers, keys
	})
	a.Settled()
}

// Missing waits until an enforcement point has asked for a key.
func (a *Agent) Missing(provider, keyID string) {
	a.t.Helper()
	a.Await("question for a key", func() bool {
		return slices.ContainsFunc(a.tokens.missing, func(m *pb.MissingKey) bool {
			return m.GetProvider() == provider && m.GetKeyId() == keyID
		})
	})
}

// sendKeys comes before the slice, so that its ack is for both.
func (a *Agent) sendKeys(me *link, stream grpc.BidiStreamingServer[pb.EnforceRequest, pb.EnforceResponse]) error {
	for _, keys := range a.untold(me) {
		if err := stream.Send(&pb.EnforceResponse{Message: &pb.EnforceResponse_Keys{Keys: keys}}); err != nil {
			return err
		}
	}
	return nil
}

// untold is the keys that an enforcement point does not have yet.
func (a *Agent) untold(me *link) (out []*pb.ProviderKeys) {
	a.mu.Lock()
	defer a.mu.Unlock()
	told := make(map[string]string)
	for _, p := range a.tokens.providers {
		url := p.GetJwksUrl()
		if told[url] = a.tokens.keys[url]; told[url] != me.told[url] {
			out = append(out, &pb.ProviderKeys{Url: url, Jwks: []byte(told[url])})
		}
	}
	me.told = told
	return out
}
