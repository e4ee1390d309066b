package workload

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/pb/workloadpb"
)

const (
	apiPrefix      = "/SpiffeWorkloadAPI/"
	securityHeader = "workload.spiffe.io"

	// defaultStreams is how many streams one user may hold open.
	defaultStreams = 512
)

// guard stands in front of every call on the agent's socket: it asks for the
// Workload API's security header and keeps one user from taking all streams, or
// all else that may wait.
type guard struct {
	limit int
	hands *hands

	mu   sync.Mutex
	open map[taking]int // guarded by mu
}

// taking is what is counted: the streams or the unary calls of a user.
type taking struct {
	uid   uint32
	unary bool
}

func newGuard(streams int, hands *hands) *guard {
	if streams <= 0 {
		streams = defaultStreams
	}
	return &guard{limit: streams, hands: hands, open: make(map[taking]int)}
}

// stream is the server's stream interceptor.
func (g *guard) stream(srv any, in grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	user, err := g.admit(in.Context(), info.FullMethod, false)
	if err != nil {
		return err
	}
	defer g.leave(user)
	if strings.HasPrefix(info.FullMethod, apiPrefix) {
		in = &asked{ServerStream: in, hands: g.hands}
	}
	return next(srv, in)
}

// asked is a stream whose request is read by hands; with its own, each handler
// would need twice the stack. The Workload API's streams have one request each.
type asked struct {
	grpc.ServerStream
	hands  *hands
	unread *workloadpb.X509SVIDRequest // which its handler reads, by asking again
}

// RecvMsg implements grpc.ServerStream. The request for X.509-SVIDs says nothing
// but that it is there: it is read when it is asked for once more, by the hand
// that then does the rest, which spares each fetch a second one.
func (a *asked) RecvMsg(m any) error {
	switch request, ok := m.(*workloadpb.X509SVIDRequest); {
	case !ok:
		return a.hands.do(func() error { return a.ServerStream.RecvMsg(m) })
	case a.unread != request:
		a.unread = request
		return nil
	}
	return a.ServerStream.RecvMsg(m)
}

// unary is the server's interceptor of unary calls.
func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	user, err := g.admit(ctx, info.FullMethod, true)
	if err != nil {
		return nil, err
	}
	defer g.leave(user)
	return next(ctx, req)
}

// admit lets a call in, which must leave again.
func (g *guard) admit(ctx context.Context, method string, unary bool) (taking, error) {
	if err := checkHeader(ctx, method); err != nil {
		return taking{}, err
	}
	peer, err := PeerOf(ctx)
	if err != nil {
		return taking{}, err
	}
	what := taking{peer.UID, unary}
	switch {
	case g.enter(what):
		return what, nil
	case unary:
		return taking{}, status.Errorf(codes.Unavailable, "user %d has %d calls under way, which is the limit", peer.UID, g.limit)
	}
	return taking{}, status.Errorf(codes.Unavailable, "user %d has %d streams open, which is the limit", peer.UID, g.limit)
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

func (g *guard) enter(what taking) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[what] >= g.limit {
		return false
	}
	g.open[what]++
	return true
}

func (g *guard) leave(what taking) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[what]--; g.open[what] <= 0 {
		delete(g.open, what)
	}
}
