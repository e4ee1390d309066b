// Package workload serves the SPIFFE Workload API's X.509 and JWT profiles, and
// Envoy's secret discovery service, on the agent's socket and keeps the SVIDs it
// hands out fresh; who a workload is, and who signs, it asks of the agent.
package workload

import (
	"context"
	"strings"

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
	// Evaluate says which identities the peer has under the rules of now.
	Evaluate(ctx context.Context, peer attest.Peer) (Evaluation, error)
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

// Evaluation is who a workload is, and why.
type Evaluation struct {
	// Attributes is what was found out, workload.* only.
	Attributes registry.Attributes
	// Matches are the identities, the default one first.
	Matches []registry.Match
	// Outcomes explain every rule.
	Outcomes []registry.Outcome
}

// Trust is whom a workload may trust. Its own trust domain has a bundle before
// anything is served.
type Trust struct {
	Domain  spiffe.TrustDomain
	Bundles spiffe.BundleMap
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

// Closest is the outcome of the rule that came nearest to matching, and false
// when there was none: a rule whose requirement is false is nearer than one
// that misses an attribute, and one for other nodes is the farthest.
func Closest(outcomes []registry.Outcome) (registry.Outcome, bool) {
	rank := func(o registry.Outcome) int {
		switch {
		case strings.HasPrefix(o.Detail, "not for nodes"):
			return 1
		case o.Result == registry.Missing:
			return 2
		case o.Result == registry.Unmatched:
			return 3
		case o.Result == registry.Failed:
			return 4
		default:
			return 5
		}
	}
	var best registry.Outcome
	found := 0
	for _, o := range outcomes {
		if r := rank(o); r > found {
			best, found = o, r
		}
	}
	return best, found > 0
}
