package proxytest

import (
	"maps"
	"slices"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/pb"
)

// tokens are the providers of user tokens, the keys fetched of them, and the keys
// that enforcement points have asked for.
type tokens struct {
	providers []*pb.Provider
	keys      map[string][]byte // by URL
	missing   []*pb.MissingKey
}

// Providers replaces the providers and the keys fetched of them, by URL, and
// returns once every enforcement point has acked.
func (a *Agent) Providers(keys map[string]string, providers ...*pb.Provider) {
	a.t.Helper()
	a.Change(func() {
		a.tokens.providers = providers
		for url := range a.tokens.keys {
			a.tokens.keys[url] = nil // told to be gone
		}
		if a.tokens.keys == nil {
			a.tokens.keys = make(map[string][]byte)
		}
		for url, set := range keys {
			a.tokens.keys[url] = []byte(set)
		}
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
func (a *Agent) sendKeys(stream grpc.BidiStreamingServer[pb.EnforceRequest, pb.EnforceResponse]) error {
	a.mu.Lock()
	keys := maps.Clone(a.tokens.keys)
	a.mu.Unlock()
	for url, set := range keys {
		if err := stream.Send(&pb.EnforceResponse{Message: &pb.EnforceResponse_Keys{Keys: &pb.ProviderKeys{Url: url, Jwks: set}}}); err != nil {
			return err
		}
	}
	return nil
}
