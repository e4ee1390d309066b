package kith_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// mustBeDenied checks that err is a denial with a decision id.
func mustBeDenied(t *testing.T, what string, err error) {
	t.Helper()
	if s := status.Convert(err); s.Code() != codes.PermissionDenied || !strings.Contains(s.Message(), "kith why ") {
		t.Errorf("%s: got %v, want PERMISSION_DENIED with a decision id", what, err)
	}
}

func TestAttack40GRPCIsDecidedByMethod(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveGRPC(t, agent, "orders", newEcho())
	_, conn := grpcClient(t, agent, "web", "orders")
	ctx := within(t)
	var trailer metadata.MD
	_, err := say(ctx, conn, grpc.Trailer(&trailer))
	mustBeDenied(t, "without a rule", err)
	if id := trailer.Get(kith.DecisionHeader); len(id) != 1 || !strings.Contains(err.Error(), id[0]) {
		t.Errorf("trailer: got %v", trailer)
	}
	agent.Decision("the denial", func(d *pb.Decision) bool {
		return d.GetPath() == "/test.Echo/Say" && d.GetProtocol() == "grpc" && d.GetHost() == "orders" && d.GetReason() == "no_source"
	})
	agent.Rules(proxytest.Allow("talk", "web", "orders", "grpc test.Echo/Say", "grpc test.Echo/Chat"))
	var answered peer.Peer
	if got, err := say(ctx, conn, grpc.Peer(&answered)); err != nil || got != "hi /dev/web talk" {
		t.Errorf("with a rule: got %q, %v", got, err)
	}
	if info, ok := answered.AuthInfo.(*kith.AuthInfo); !ok || info.Peer.ID().Path() != "/dev/orders" {
		t.Errorf("who answered: got %+v", answered.AuthInfo)
	}
	stream := newStream(t, conn, "/test.Echo/Chat")
	for range 20 {
		exchange(t, stream)
	}
	watch := newStream(t, conn, "/test.Echo/Watch")
	mustBeDenied(t, "a stream without a rule", watch.RecvMsg(new(text)))
	mustBeDenied(t, "a method that is not there", conn.Invoke(ctx, "/test.Echo/Nothing", new(text), new(text)))
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	if err := conn.Invoke(ctx, "/test.Echo/Nothing", new(text), new(text)); status.Code(err) != codes.Unimplemented {
		t.Errorf("an allowed method that is not there: got %v", err)
	}
	if err := conn.Invoke(ctx, "/test.Echo/S%61y", new(text), new(text)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a path not in its normal form: got %v, want INVALID_ARGUMENT", err)
	}
	if _, err := say(ctx, conn, grpc.CallAuthority("billing")); err == nil {
		t.Error("another authority was sent to orders")
	}
}

func TestGRPCStreamIsCutWhenDenied(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	e := newEcho()
	w, _, _ := serveGRPC(t, agent, "orders", e)
	_, conn := grpcClient(t, agent, "web", "orders")
	chat, watch := proxytest.Allow("chat", "web", "orders", "grpc test.Echo/Chat"), proxytest.Allow("watch", "web", "orders", "grpc test.Echo/Watch")
	agent.Rules(chat, watch)
	talk, rest := newStream(t, conn, "/test.Echo/Chat"), newStream(t, conn, "/test.Echo/Watch")
	exchange(t, talk)
	if err := errors.Join(rest.SendMsg(new(text)), rest.CloseSend(), rest.RecvMsg(new(text))); err != nil {
		t.Fatal(err)
	}
	agent.Rules(chat) // the client is silent, and so is the handler
	mustBeDenied(t, "a stream at rest", rest.RecvMsg(new(text)))
	if err := <-e.ended; err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the handler's end: got %v, want why it was cut", err)
	}
	exchange(t, talk) // what is still allowed goes on
	agent.Rules()
	mustBeDenied(t, "a stream that waits for the caller", talk.RecvMsg(new(text)))
	<-e.ended
	if got := w.Stats().Cut; got != 2 {
		t.Errorf("cut: got %d, want 2", got)
	}
}

func TestGRPCUnaryCallOnceBegunFinishes(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	e := newEcho()
	serveGRPC(t, agent, "orders", e)
	_, conn := grpcClient(t, agent, "web", "orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	done := make(chan error, 1)
	ctx := within(t)
	go func() { done <- conn.Invoke(ctx, "/test.Echo/Hold", wrapperspb.String("hi"), new(text)) }()
	<-e.begun
	agent.Rules()
	close(e.release)
	if err := <-done; err != nil {
		t.Errorf("the call under way: got %v, want success", err)
	}
	_, err := say(ctx, conn)
	mustBeDenied(t, "the next call", err)
}

func TestPanicOfAStreamReachesInterceptorsOutside(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	recovers := func(service any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = status.Errorf(codes.Internal, "recovered %v", p)
			}
		}()
		return handler(service, s)
	}
	serveGRPC(t, agent, "orders", newEcho(), kith.WithServerOptions(grpc.StreamInterceptor(recovers)))
	_, conn := grpcClient(t, agent, "web", "orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	stream := newStream(t, conn, "/test.Echo/Chat")
	if err := stream.SendMsg(wrapperspb.String("panic")); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(text)); status.Convert(err).Message() != "recovered by request" {
		t.Errorf("got %v", err)
	}
}

// Interceptors without credentials know nobody and deny; a server without
// credentials is not served.
func TestGRPCFailsClosed(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("orders", "grpc")
	w := open(t, agent, kith.Config{As: "orders"})
	agent.Rules(proxytest.Allow("all", "any", "orders", "grpc test.Echo/*"))
	server := grpc.NewServer(grpc.UnaryInterceptor(w.UnaryInterceptor()), grpc.StreamInterceptor(w.StreamInterceptor()))
	server.RegisterService(newEcho().desc(), nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l)
	defer server.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = say(within(t), conn)
	mustBeDenied(t, "a call without credentials", err)
	mustBeDenied(t, "a stream without credentials", newStream(t, conn, "/test.Echo/Chat").RecvMsg(new(text)))

	bare := grpc.NewServer()
	bare.RegisterService(newEcho().desc(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.ServeGRPC(ctx, bare, "127.0.0.1:0") }()
	agent.Registered("orders")
	_, secure := grpcClient(t, agent, "web", "orders")
	if _, err := say(within(t), secure); status.Code(err) != codes.Unavailable {
		t.Errorf("a server without credentials: got %v, want UNAVAILABLE", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ServeGRPC: %v", err)
	}
}
