package workload

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	apiPrefix      = "/SpiffeWorkloadAPI/"
	securityHeader = "workload.spiffe.io"

	// defaultStreams is how many streams one user may hold open.
	defaultStreams = 512
)

// Guard stands in front of every call on the agent's socket: it asks for the
// Workload API's security header and keeps one user from taking all streams, or
// all else that may wait.
type Guard struct {
	limit int

	mu   sync.Mutex
	open map[taking]int // guarded by mu
}

// taking is what is counted: the streams or the unary calls of a user.
type taking struct {
	uid   uint32
	unary bool
}

// NewGuard allows each user so many streams, and as many calls, at a time; 0 is
// 512.
func NewGuard(streams int) *Guard {
	if streams <= 0 {
		streams = defaultStreams
	}
	return &Guard{limit: streams, open: make(map[taking]int)}
}

// Stream is the server's stream interceptor.
func (g *Guard) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := checkHeader(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	peer, err := PeerOf(stream.Context())
	if err != nil {
		return err
	}
	streams := taking{uid: peer.UID}
	if !g.enter(streams) {
		return status.Errorf(codes.Unavailable, "user %d has %d streams open, which is the limit", peer.UID, g.limit)
	}
	defer g.leave(streams)
	return next(srv, stream)
}

// Unary is the server's interceptor of unary calls.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := checkHeader(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	peer, err := PeerOf(ctx)
	if err != nil {
		return nil, err
	}
	calls := taking{peer.UID, true}
	if !g.enter(calls) {
		return nil, status.Errorf(codes.Unavailable, "user %d has %d calls under way, which is the limit", peer.UID, g.limit)
	}
	defer g.leave(calls)
	return next(ctx, req)
}

// checkHeader holds back requests that some program was tricked into sending:
// Workload Endpoint 3: every request carries the header, its value exact.
func checkHeader(ctx context.Context, method string) error {
	if !strings.HasPrefix(method, apiPrefix) {
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get(securityHeader); len(v) == 1 && v[0] == "true" {
		return nil
	}
	return status.Errorf(codes.InvalidArgument, "metadata %q must be \"true\"", securityHeader)
}

func (g *Guard) enter(what taking) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[what] >= g.limit {
		return false
	}
	g.open[what]++
	return true
}

func (g *Guard) leave(what taking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[what]--; g.open[what] <= 0 {
		delete(g.open, what)
	}
}
