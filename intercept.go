package kith

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/policy"
)

// UnaryInterceptor decides each unary call before the handler sees it: status
// PermissionDenied with a decision id where policy says no. It needs
// [Workload.GRPCCredentials]; without them it denies everything.
// [Workload.GRPCServer] has both.
func (w *Workload) UnaryInterceptor(options ...Option) grpc.UnaryServerInterceptor {
	serving := servingOf(options)
	return func(ctx context.Context, in any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		from, request := callOf(ctx, info.FullMethod)
		if table := w.policy.Load().table; table.Reads()&policy.ReadsHeaders != 0 || table.Reads()&policy.ReadsToken != 0 {
			request.Headers = callHeaders{ctx}
		}
		d := w.decide(ctx, from, &request, serving.callCheck(ctx), w.cfg.Now())
		if !d.Allowed {
			grpc.SetTrailer(ctx, decisionTrailer(d)) //nolint:errcheck // the status says it as well
			return nil, denialError(d)
		}
		return handler(withCaller(ctx, Caller{Peer: from, Decision: d}), in)
	}
}

// StreamInterceptor decides each stream before the handler sees it, and again at
// each change of policy: a stream that is denied now ends at once with status
// PermissionDenied and a decision id, the handler's context is cancelled, and
// what it still sends or receives fails. Handlers run in a goroutine of their
// own, so that one that waits for the caller does not hold a cut up.
func (w *Workload) StreamInterceptor(options ...Option) grpc.StreamServerInterceptor {
	serving := servingOf(options)
	return func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancelCause(stream.Context())
		defer cancel(nil)
		from, request := callOf(ctx, info.FullMethod)
		request.Headers = callHeaders{stream.Context()}
		denied := make(chan Decision, 1)
		d, release := w.hold(ctx, from, request, serving.callCheck(ctx), func(d Decision) { denied <- d })
		defer release()
		if !d.Allowed {
			stream.SetTrailer(decisionTrailer(d))
			return denialError(d)
		}
		held := &heldStream{ServerStream: stream, ctx: withCaller(ctx, Caller{Peer: from, Decision: d})}
		ended := make(chan outcome, 1)
		go w.handle(func() error { return handler(service, held) }, held, ended)
		select {
		case out := <-ended:
			if out.panicked != nil {
				panic(out.panicked)
			}
			return out.err
		case d = <-denied:
			err := denialError(d)
			held.cut.Store(&err)
			cancel(errCut)
			stream.SetTrailer(decisionTrailer(d))
			return err
		}
	}
}

// outcome is how a stream's handler ended.
type outcome struct {
	err      error
	panicked any
}

var errHandlerExit = errors.New("the handler ended its goroutine")

// handle runs a handler. A panic is passed on to the interceptor, where those
// outside of it can recover; the stack is lost on the way and so is logged here.
func (w *Workload) handle(run func() error, held *heldStream, ended chan<- outcome) {
	out := outcome{err: errHandlerExit}
	returned := false
	defer func() {
		if p := recover(); p != nil && !returned {
			out.panicked = p
			w.cfg.Log.Error("stream handler panicked", "panic", p, "cut", held.cut.Load() != nil, "stack", string(debug.Stack()))
		}
		ended <- out
	}()
	out.err = run()
	returned = true
}

// heldStream is a stream that is decided again while it lives.
type heldStream struct {
	grpc.ServerStream

	ctx context.Context // the stream's own, with who calls; ends at the cut
	cut atomic.Pointer[error]
}

// Context is the stream's context.
func (s *heldStream) Context() context.Context { return s.ctx }

// SendMsg sends a message unless the stream is cut.
func (s *heldStream) SendMsg(m any) error {
	if cut := s.cut.Load(); cut != nil {
		return *cut
	}
	return s.ServerStream.SendMsg(m)
}

// RecvMsg receives a message unless the stream is cut.
func (s *heldStream) RecvMsg(m any) error {
	if cut := s.cut.Load(); cut != nil {
		return *cut
	}
	err := s.ServerStream.RecvMsg(m)
	if cut := s.cut.Load(); cut != nil {
		return *cut // what arrived with the cut was not allowed
	}
	return err
}

// SetHeader sets the header unless the stream is cut.
func (s *heldStream) SetHeader(md metadata.MD) error {
	if cut := s.cut.Load(); cut != nil {
		return *cut
	}
	return s.ServerStream.SetHeader(md)
}

// SendHeader sends the header unless the stream is cut.
func (s *heldStream) SendHeader(md metadata.MD) error {
	if cut := s.cut.Load(); cut != nil {
		return *cut
	}
	return s.ServerStream.SendHeader(md)
}

func (s *serving) callCheck(ctx context.Context) *check {
	return &check{ctx: ctx, authorizers: s.authorizers, exact: true}
}

// callOf is who calls and what is decided. gRPC is a POST to the method's path.
func callOf(ctx context.Context, method string) (*Peer, Request) {
	request := Request{Protocol: GRPC, Method: "POST", Path: method, GRPC: true}
	if authority := metadata.ValueFromIncomingContext(ctx, ":authority"); len(authority) > 0 {
		request.Host = authority[0]
	}
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, request
	}
	if local, ok := from.LocalAddr.(*net.TCPAddr); ok {
		request.Port = uint16(local.Port)
	}
	info, ok := from.AuthInfo.(*AuthInfo)
	if !ok {
		return nil, request
	}
	return info.Peer, request
}

// callHeaders are the fields of a call, which gRPC keeps in lower case.
type callHeaders struct{ ctx context.Context }

// Values are the values of a field.
func (h callHeaders) Values(name string) []string {
	return metadata.ValueFromIncomingContext(h.ctx, strings.ToLower(name))
}

// All are all fields.
func (h callHeaders) All() http.Header {
	fields := make(http.Header)
	in, _ := metadata.FromIncomingContext(h.ctx)
	for name, values := range in {
		if !strings.HasPrefix(name, ":") {
			fields[http.CanonicalHeaderKey(name)] = values
		}
	}
	return fields
}

// denialError is the status of a denial. It does not say why: that is for
// operators, who ask `kith why`.
func denialError(d Decision) error {
	return status.Error(denialCode(d), denialText(d))
}

func decisionTrailer(d Decision) metadata.MD {
	return metadata.MD{strings.ToLower(DecisionHeader): {d.ID}}
}
