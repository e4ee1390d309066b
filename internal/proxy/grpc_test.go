package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

type text = wrapperspb.StringValue

// echoServer is a gRPC application: Say is unary, Hold a unary call that waits
// for release, Chat echoes in both directions, Watch sends one message and then
// nothing.
type echoServer struct {
	begun   chan struct{}
	release chan struct{}
}

func (e *echoServer) desc() *grpc.ServiceDesc {
	unary := func(name string, wait bool) grpc.MethodDesc {
		say := func(ctx context.Context, in *text) (any, error) {
			if wait {
				e.begun <- struct{}{}
				select {
				case <-e.release:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			if in.GetValue() == "fail" {
				return nil, status.Error(codes.AlreadyExists, "twice: 100 %")
			}
			grpc.SetTrailer(ctx, metadata.Pairs("checksum", "abc"))
			return wrapperspb.String("said " + in.GetValue()), nil
		}
		return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			in := new(text)
			if err := dec(in); err != nil {
				return nil, err
			}
			if intercept == nil {
				return say(ctx, in)
			}
			handler := func(ctx context.Context, in any) (any, error) { return say(ctx, in.(*text)) }
			return intercept(ctx, in, &grpc.UnaryServerInfo{FullMethod: "/test.Echo/" + name}, handler)
		}}
	}
	return &grpc.ServiceDesc{
		ServiceName: "test.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{unary("Say", false), unary("Hold", true)},
		Streams: []grpc.StreamDesc{
			{StreamName: "Chat", ClientStreams: true, ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				for {
					in := new(text)
					if err := s.RecvMsg(in); err != nil {
						if err == io.EOF {
							return nil
						}
						return err
					}
					if err := s.SendMsg(wrapperspb.String("chat " + in.GetValue())); err != nil {
						return err
					}
				}
			}},
			{StreamName: "Watch", ServerStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				if err := s.RecvMsg(new(text)); err != nil {
					return err
				}
				if err := s.SendMsg(wrapperspb.String("first")); err != nil {
					return err
				}
				<-s.Context().Done()
				return s.Context().Err()
			}},
		},
	}
}

// grpcHouse is a gRPC application behind a proxy and a grpc-go client that goes
// out by CONNECT, as it does with HTTPS_PROXY set.
func grpcHouse(t *testing.T, protocol string) (*house, *echoServer, *grpc.ClientConn) {
	t.Helper()
	h := newHouse(t)
	e := &echoServer{begun: make(chan struct{}, 1), release: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	server.RegisterService(e.desc(), nil)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	h.expose("orders", protocol, l.Addr().String())
	out, _ := h.outbound("web")
	return h, e, dialThrough(t, out.OutboundAddr(), "orders:443")
}

func dialThrough(t *testing.T, proxy, target string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return connectThrough(ctx, proxy, addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http", "grpc"} {
		t.Run(protocol, func(t *testing.T) {
			h, _, conn := grpcHouse(t, protocol)
			ctx := soon(t)
			out := new(text)
			err := conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), out)
			if status.Code(err) != codes.PermissionDenied || !strings.Contains(status.Convert(err).Message(), "kith why ") {
				t.Fatalf("without a rule: got %v, want PERMISSION_DENIED with a decision id", err)
			}
			h.agent.Rules(proxytest.Allow("say", "web", "orders", "grpc test.Echo/Say", "grpc test.Echo/Chat"))
			var trailer metadata.MD
			if err := conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), out, grpc.Trailer(&trailer)); err != nil || out.GetValue() != "said hi" {
				t.Fatalf("unary: got %q, %v", out.GetValue(), err)
			}
			if got := trailer.Get("checksum"); len(got) != 1 || got[0] != "abc" {
				t.Errorf("trailer: got %v", trailer)
			}
			err = conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("fail"), out)
			if s := status.Convert(err); s.Code() != codes.AlreadyExists || s.Message() != "twice: 100 %" {
				t.Errorf("the application's status: got %v", err)
			}
			chat(t, ctx, conn, 50)
			if err := conn.Invoke(ctx, "/test.Echo/Hold", wrapperspb.String("hi"), out); status.Code(err) != codes.PermissionDenied {
				t.Errorf("another method: got %v, want PERMISSION_DENIED", err)
			}
		})
	}
}

func openStream(t *testing.T, ctx context.Context, conn *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func chat(t *testing.T, ctx context.Context, conn *grpc.ClientConn, rounds int) {
	t.Helper()
	stream := openStream(t, ctx, conn, "/test.Echo/Chat")
	for range rounds {
		exchange(t, stream)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(text)); err != io.EOF {
		t.Errorf("end of the stream: got %v, want EOF", err)
	}
}

func exchange(t *testing.T, stream grpc.ClientStream) {
	t.Helper()
	if err := stream.SendMsg(wrapperspb.String("x")); err != nil {
		t.Fatal(err)
	}
	out := new(text)
	if err := stream.RecvMsg(out); err != nil || out.GetValue() != "chat x" {
		t.Fatalf("got %q, %v", out.GetValue(), err)
	}
}

func TestStreamIsCutWhenDenied(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T, context.Context, *grpc.ClientConn) grpc.ClientStream{
		"after two messages": func(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
			stream := openStream(t, ctx, conn, "/test.Echo/Chat")
			exchange(t, stream)
			exchange(t, stream)
			return stream
		},
		"after one message": func(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
			stream := openStream(t, ctx, conn, "/test.Echo/Chat")
			exchange(t, stream)
			return stream
		},
		"a server's stream at rest": func(t *testing.T, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
			stream := openStream(t, ctx, conn, "/test.Echo/Watch")
			stream.SendMsg(wrapperspb.String("x"))
			stream.CloseSend()
			if err := stream.RecvMsg(new(text)); err != nil {
				t.Fatal(err)
			}
			return stream
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, _, conn := grpcHouse(t, "grpc")
			h.agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
			stream := open(t, soon(t), conn)
			h.agent.Rules()
			err := stream.RecvMsg(new(text))
			if s := status.Convert(err); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "decision ") {
				t.Errorf("got %v, want PERMISSION_DENIED with a decision id", err)
			}
		})
	}
}

func TestUnaryCallOnceBegunFinishes(t *testing.T) {
	t.Parallel()
	h, e, conn := grpcHouse(t, "grpc")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	ctx := soon(t)
	done := make(chan error, 1)
	go func() { done <- conn.Invoke(ctx, "/test.Echo/Hold", wrapperspb.String("hi"), new(text)) }()
	<-e.begun
	h.agent.Rules()
	time.AfterFunc(2*time.Second/4, func() { close(e.release) }) // longer than a stream at rest is given
	if err := <-done; err != nil {
		t.Errorf("the call under way: got %v, want success", err)
	}
	if err := conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), new(text)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the next call: got %v, want PERMISSION_DENIED", err)
	}
}
