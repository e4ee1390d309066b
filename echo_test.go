package kith_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

type text = wrapperspb.StringValue

// echo is a gRPC service: Say is unary and says who called, Hold a unary call
// that waits for release, Chat echoes in both directions, Watch sends one message
// and waits for its end. What stream handlers return goes to ended.
type echo struct {
	begun, release chan struct{}
	ended          chan error
}

func newEcho() *echo {
	return &echo{begun: make(chan struct{}, 1), release: make(chan struct{}), ended: make(chan error, 8)}
}

func (e *echo) say(ctx context.Context, in *text) (*text, error) {
	id, ok := kith.Identity(ctx)
	caller, decided := kith.CallerOf(ctx)
	if !ok || !decided || caller.Peer.ID() != id || !caller.Decision.Allowed {
		return nil, errors.New("the handler is not told who calls")
	}
	return wrapperspb.String(in.GetValue() + " " + id.Path() + " " + caller.Decision.Rule), nil
}

func (e *echo) hold(ctx context.Context, in *text) (*text, error) {
	e.begun <- struct{}{}
	select {
	case <-e.release:
		return in, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (e *echo) chat(s grpc.ServerStream) error {
	for {
		in := new(text)
		if err := s.RecvMsg(in); err != nil {
			return err
		}
		if in.GetValue() == "panic" {
			panic("by request")
		}
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}

func (e *echo) watch(s grpc.ServerStream) error {
	if err := errors.Join(s.RecvMsg(new(text)), s.SendMsg(wrapperspb.String("first"))); err != nil {
		return err
	}
	<-s.Context().Done()
	return context.Cause(s.Context())
}

func (e *echo) desc() *grpc.ServiceDesc {
	unary := func(name string, do func(context.Context, *text) (*text, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			in := new(text)
			if err := dec(in); err != nil {
				return nil, err
			}
			handler := func(ctx context.Context, in any) (any, error) { return do(ctx, in.(*text)) }
			if intercept == nil {
				return handler(ctx, in)
			}
			return intercept(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/test.Echo/" + name}, handler)
		}}
	}
	stream := func(name string, fromClient bool, do func(grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ClientStreams: fromClient, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
			err := do(s)
			e.ended <- err
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}}
	}
	return &grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{unary("Say", e.say), unary("Hold", e.hold)},
		Streams: []grpc.StreamDesc{stream("Chat", true, e.chat), stream("Watch", false, e.watch)},
	}
}

// serveGRPC serves an echo in process and returns when it is in the directory.
func serveGRPC(t *testing.T, agent *proxytest.Agent, as string, e *echo, options ...kith.Option) (w *kith.Workload, addr string, stop func()) {
	t.Helper()
	agent.Service(as, "grpc")
	w = open(t, agent, kith.Config{As: as})
	server := w.GRPCServer(options...)
	server.RegisterService(e.desc(), nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.ServeGRPC(ctx, server, "127.0.0.1:0") }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeGRPC: %v", err)
		}
	}
	t.Cleanup(stop)
	return w, agent.Registered(as)[0], stop
}

func grpcClient(t *testing.T, agent *proxytest.Agent, as, service string, options ...grpc.DialOption) (*kith.Workload, *grpc.ClientConn) {
	t.Helper()
	agent.Service(as, "http")
	w := open(t, agent, kith.Config{As: as})
	agent.Settled()
	conn, err := w.GRPCClient(service, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return w, conn
}

func say(ctx context.Context, conn *grpc.ClientConn, options ...grpc.CallOption) (string, error) {
	out := new(text)
	err := conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), out, options...)
	return out.GetValue(), err
}

func newStream(t *testing.T, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(within(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func exchange(t *testing.T, stream grpc.ClientStream) {
	t.Helper()
	out := new(text)
	if err := errors.Join(stream.SendMsg(wrapperspb.String("x")), stream.RecvMsg(out)); err != nil || out.GetValue() == "" {
		t.Fatalf("got %q, %v", out.GetValue(), err)
	}
}
