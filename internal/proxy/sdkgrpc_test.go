package proxy

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// sdkTalk is what an SDK on one side and a proxy on the other must do together.
func sdkTalk(t *testing.T, h *house, conn *grpc.ClientConn) {
	t.Helper()
	denied := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: got %v, want PERMISSION_DENIED", what, err)
		}
	}
	ctx, out := soon(t), new(text)
	denied("without a rule", conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), out))
	h.agent.Rules(proxytest.Allow("talk", "web", "orders", "grpc test.Echo/Say", "grpc test.Echo/Chat", "grpc test.Echo/Watch"))
	if err := conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("hi"), out); err != nil || out.GetValue() != "said hi" {
		t.Fatalf("unary: got %q, %v", out.GetValue(), err)
	}
	err := conn.Invoke(ctx, "/test.Echo/Say", wrapperspb.String("fail"), out)
	if s := status.Convert(err); s.Code() != codes.AlreadyExists || s.Message() != "twice: 100 %" {
		t.Errorf("the application's status: got %v", err)
	}
	chat(t, ctx, conn, 50)
	denied("another method", conn.Invoke(ctx, "/test.Echo/Hold", wrapperspb.String("hi"), out))
	live, rest := openStream(t, ctx, conn, "/test.Echo/Chat"), openStream(t, ctx, conn, "/test.Echo/Watch")
	exchange(t, live)
	if err := errors.Join(rest.SendMsg(wrapperspb.String("x")), rest.CloseSend(), rest.RecvMsg(new(text))); err != nil {
		t.Fatal(err)
	}
	h.agent.Rules()
	denied("a live stream", live.RecvMsg(new(text)))
	denied("a stream at rest", rest.RecvMsg(new(text)))
}

func TestSDKCallsGRPCBehindAProxy(t *testing.T) {
	t.Parallel()
	h, _, _ := grpcHouse(t, "grpc")
	w := h.open("web") // beside the proxy of web
	h.agent.Settled()
	conn, err := w.GRPCClient("orders")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sdkTalk(t, h, conn)
}

func TestProxiedClientCallsGRPCServerOfTheSDK(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.agent.Service("orders", "grpc")
	w := h.open("orders")
	server := w.GRPCServer()
	e := &echoServer{begun: make(chan struct{}, 1), release: make(chan struct{})}
	server.RegisterService(e.desc(), nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.ServeGRPC(ctx, server, "127.0.0.1:0") }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeGRPC: %v", err)
		}
	})
	h.agent.Registered("orders")
	out, _ := h.outbound("web")
	sdkTalk(t, h, dialThrough(t, out.OutboundAddr(), "orders:443"))
}
