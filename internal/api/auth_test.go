package api

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func TestAdminLetsInRootAndItself(t *testing.T) {
	a := NewAdmin(AdminConfig{Log: slog.New(slog.DiscardHandler), UID: 990})
	from := func(info credentials.AuthInfo) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.UnixAddr{Name: "@"}, AuthInfo: info})
	}
	for name, c := range map[string]struct {
		ctx context.Context
		in  bool
	}{
		"root":           {from(peerInfo{uid: 0}), true},
		"the server":     {from(peerInfo{uid: 990}), true},
		"somebody":       {from(peerInfo{uid: 1000}), false},
		"a TLS peer":     {from(credentials.TLSInfo{}), false},
		"no credentials": {t.Context(), false},
	} {
		_, err := a.door(pb.Admin_Status_FullMethodName)(c.ctx)
		if c.in != (err == nil) || err != nil && !fault.Is(err, fault.Denied) {
			t.Errorf("%s: got %v, want in: %t", name, err, c.in)
		}
	}
}

func TestUnknownMethodIsRefused(t *testing.T) {
	p := &Public{}
	for _, method := range []string{pb.Admin_Apply_FullMethodName, "/kith.v1.Node/New", "", "kith.v1.Node/Sync"} {
		if _, err := p.door(method)(t.Context()); !fault.Is(err, fault.Denied) {
			t.Errorf("%q: got %v, want Denied", method, err)
		}
	}
}

func TestPanicEndsOneRequestOnly(t *testing.T) {
	g := guard{
		log:  slog.New(slog.DiscardHandler),
		door: func(string) func(context.Context) (context.Context, error) { return passed },
	}
	_, err := g.unary(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: "/test"}, func(context.Context, any) (any, error) {
		panic("a bug")
	})
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v, want an internal error", err)
	}
}

func passed(ctx context.Context) (context.Context, error) { return ctx, nil }
