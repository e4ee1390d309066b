// Package api is the server's three gRPC faces - admission, nodes, operators:
// it authenticates, bounds and translates, and leaves every decision to the
// program behind the interfaces it declares.
package api

import (
	"context"
	"crypto"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// Admitter admits nodes. Admit blocks for the length of the exchange and
// honours ctx; what it says to a refused peer must not tell why.
type Admitter interface {
	Admit(ctx context.Context, who Applicant, ex attest.Exchange) (*pb.Admitted, error)
}

// Applicant is a peer that asks to become a node; nothing in it is proven but
// the possession of Key.
type Applicant struct {
	Method  string
	Key     crypto.PublicKey
	Version string
	Remote  string
}

// Caller is an authenticated node.
type Caller struct {
	Name    string
	ID      spiffe.ID
	Key     [32]byte  // SHA-256 of its SPKI
	Expires time.Time // end of the certificate the connection was made with
	Remote  string
}

// Link is the sync stream of one node. Sending and receiving are each done by
// one goroutine at a time, and only until Sync returns; Recv ends with an error
// when the stream ends. Sending blocks only while 64 KiB wait to be written.
type Link interface {
	Send(*pb.SyncResponse) error
	SendFrame(*Frame) error
	Recv() (*pb.SyncRequest, error)
}

// CSR is one workload's request, its proof of possession checked.
type CSR struct {
	Rule       string
	ID         string // what the agent expects
	Attributes map[string]string
	Key        crypto.PublicKey
	Err        error // set when the request could not be read; Key is nil then
}

// Signed answers one CSR: a chain (DER, leaf first) or an error.
type Signed struct {
	Chain [][]byte
	Err   error
}

// Fleet serves admitted nodes. Every method is safe for concurrent use.
type Fleet interface {
	// Member says nil when the node is known, bound to this key (SHA-256 of its
	// SPKI) and not banned. It is asked before every call and must not block.
	Member(name string, key [32]byte) error
	// Sync blocks until the stream ends, the node is banned or ctx is done.
	Sync(ctx context.Context, node Caller, hello *pb.SyncHello, link Link) error
	// SignWorkloads answers every request in order.
	SignWorkloads(ctx context.Context, node Caller, reqs []CSR) ([]Signed, error)
	// SignJWTs answers every request in order.
	SignJWTs(ctx context.Context, node Caller, reqs []JWTRequest) ([]SignedJWT, error)
	// SignWITs answers every request in order.
	SignWITs(ctx context.Context, node Caller, reqs []CSR) ([]SignedWIT, error)
	// RenewNode gives the node a new SVID for its bound key.
	RenewNode(ctx context.Context, node Caller, key crypto.PublicKey) (*pb.Admitted, error)
}

// Operator serves people. by names the caller for the audit log. Apply asks the
// actor's role for each change that comes of the request.
type Operator interface {
	Apply(ctx context.Context, by Actor, req *pb.ApplyRequest) (*pb.ChangeResult, error)
	List(ctx context.Context, kind, name string) (*pb.ListResponse, error)
	AddNode(ctx context.Context, by string, req *pb.AddNodeRequest) (*pb.AddNodeResponse, error)
	ListNodes(ctx context.Context) ([]*pb.NodeInfo, error)
	BanNode(ctx context.Context, by, name string, lift bool) (*pb.ChangeResult, error)
	RemoveNode(ctx context.Context, by, name string) (*pb.ChangeResult, error)
	ListIdentities(ctx context.Context) ([]*pb.IdentityInfo, error)
	Why(ctx context.Context, req *pb.WhyRequest) ([]*pb.Decision, error)
	Test(ctx context.Context, req *pb.TestRequest) (*pb.Decision, error)
	Flows(ctx context.Context, req *pb.FlowsRequest) (*pb.FlowsResponse, error)
	Status(ctx context.Context) (*pb.StatusResponse, error)
	// Watch calls send for each event until ctx is done or send fails; a reader
	// that is too slow is told so by the error it ends with.
	Watch(ctx context.Context, req *pb.WatchRequest, send func(*pb.WatchEvent) error) error
}
