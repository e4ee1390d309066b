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
// Workload API's security header and keeps one user from taking all streams.
type Guard struct {
	limit int

	mu   sync.Mutex
	open map[uint32]int // streams by user; guarded by mu
}

// NewGuard allows each user so many streams at a time; 0 is 512.
func NewGuard(streams int) *Guard {
	if streams <= 0 {
		streams = defaultStreams
	}
	return &Guard{limit: streams, open: make(map[uint32]int)}
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
	if !g.enter(peer.UID) {
		return status.Errorf(codes.Unavailable, "user %d has %d streams open, which is the limit", peer.UID, g.limit)
	}
	defer g.leave(peer.UID)
	return next(srv, stream)
}

// Unary is the server's interceptor of unary calls.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := checkHeader(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	if _, err := PeerOf(ctx); err != nil {
		return nil, err
	}
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

func (g *Guard) enter(uid uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[uid] >= g.limit {
		return false
	}
	g.open[uid]++
	return true
}

func (g *Guard) leave(uid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[uid]--; g.open[uid] <= 0 {
		delete(g.open, uid)
	}
}
