// Package workload serves the SPIFFE Workload API's X.509 and JWT profiles, and
// Envoy's secret discovery service, on the agent's socket and keeps the SVIDs it
// hands out fresh; who a workload is, and who signs, it asks of the agent.
package workload

import (
	"context"
	"maps"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Host is what the service needs to know. Every method is safe for concurrent
// use and answers from memory and from the local system.
type Host interface {
	// Evaluate says which identities the peer has under the rules of now; like
	// Check, it errs once the peer is no longer the process that connected, and
	// with Unheard before there are any rules. Peers
	// that are alike get the same value, where that is known: streams with one
	// evaluation share all that they are sent.
	Evaluate(ctx context.Context, peer attest.Peer) (*Evaluation, error)
	// EvaluateObject says the same of a workload that is no process here, by what
	// somebody else than itself has found out of it.
	EvaluateObject(attrs registry.Attributes) (*Evaluation, error)
	// Check says nil while the peer is the process that connected.
	Check(peer attest.Peer) error
	// Trust is the trust domain and the bundles of now.
	Trust() Trust
	// Changed is closed when Evaluate or Trust may answer differently than
	// before it was taken.
	Changed() <-chan struct{}
}

// Signer has SVIDs signed; it is the connection to the server. The results are
// in the order of the requests. An error means that none was signed and all may
// be tried again.
type Signer interface {
	SignWorkloads(ctx context.Context, csrs []*pb.WorkloadCSR) ([]*pb.SignedWorkload, error)
}

// Unheard is the error of an agent that has no rules yet: whether there is an
// identity is not known, and the caller does well to come back.
type Unheard struct{}

// Error implements error.
func (Unheard) Error() string { return "the agent has not heard from its server yet" }

// Trust is whom a workload may trust. Its own trust domain has a bundle before
// anything is served.
type Trust struct {
	Domain  spiffe.TrustDomain
	Bundles spiffe.BundleMap
}

// same reports whether two hold the very same bundles: of each there is one
// value for as long as it stays as it is.
func (t Trust) same(other Trust) bool {
	return t.Domain == other.Domain && maps.Equal(t.Bundles, other.Bundles)
}

// PeerOf is the process that called, as the socket's credentials captured it.
// Nothing that the caller says plays a part.
func PeerOf(ctx context.Context) (attest.Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return attest.Peer{}, status.Error(codes.PermissionDenied, "the caller is unknown")
	}
	local, ok := p.AuthInfo.(attest.Peered)
	if !ok {
		return attest.Peer{}, status.Error(codes.PermissionDenied, "the caller is not a local process")
	}
	return local.Peer(), nil
}
