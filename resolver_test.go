package kith_test

import (
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

func TestGRPCTargets(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	_, addr, _ := serveGRPC(t, agent, "orders", newEcho())
	agent.Service("billing", "grpc", addr) // whose endpoint is somebody else
	agent.Service("idle", "grpc")
	w, _ := grpcClient(t, agent, "web", "orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	for target, c := range map[string]struct {
		code codes.Code
		want string
	}{
		"kith:///orders":         {codes.OK, ""},
		"kith:orders":            {codes.OK, ""},
		"kith:///ordrs":          {codes.Unavailable, `unknown service "ordrs", did you mean "orders"?`},
		"kith:///idle":           {codes.Unavailable, "no endpoint of idle"},
		"kith:///billing":        {codes.Unavailable, "is spiffe://test.example/dev/orders, which may not answer for it"},
		"kith:///orders:443":     {codes.Unavailable, "names no service"},
		"kith://elsewhere/web":   {codes.Unavailable, "names no service"},
		"passthrough:///" + addr: {codes.Unavailable, "unknown service"}, // the address is no service
	} {
		conn, err := grpc.NewClient(target, w.GRPCDialOptions()...)
		if err == nil {
			_, err = say(within(t), conn)
			conn.Close()
		}
		if (err == nil) != (c.code == codes.OK) || !strings.Contains(status.Convert(err).Message(), c.want) {
			t.Errorf("%s: got %v, want %v %q", target, err, c.code, c.want)
		}
	}
	// An address found elsewhere, and the service named by the authority.
	conn, err := grpc.NewClient("passthrough:///"+addr, append(w.GRPCDialOptions(), grpc.WithAuthority("orders"))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := say(within(t), conn); err != nil {
		t.Errorf("with an authority: %v", err)
	}
}

// A client follows the service to another place, and calls that wait for it are
// answered there.
func TestGRPCClientFollowsTheDirectory(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	_, _, stop := serveGRPC(t, agent, "orders", newEcho())
	_, conn := grpcClient(t, agent, "web", "orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	if _, err := say(within(t), conn); err != nil {
		t.Fatal(err)
	}
	stop()
	agent.Await("empty directory", func() bool { return agent.AddressesLocked("orders") == 0 })
	agent.Settled()
	// The addresses are taken away first, then gRPC is told why: a call may meet
	// the moment between.
	for away := within(t); ; {
		_, err := say(away, conn)
		if status.Code(err) != codes.Unavailable {
			t.Fatalf("while it is away: got %v, want UNAVAILABLE, no endpoint", err)
		}
		if strings.Contains(err.Error(), "no endpoint of orders") {
			break
		}
	}
	done := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := say(ctx, conn, grpc.WaitForReady(true))
		done <- err
	}()
	serveGRPC(t, agent, "orders", newEcho())
	if err := <-done; err != nil {
		t.Errorf("a call that waited: %v", err)
	}
}

// At each rotation calls take connections made with the new leaf, and none
// fails; at a new root, what was connected under the old one is cut.
func TestGRPCSurvivesRotation(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	e := newEcho()
	server, _, _ := serveGRPC(t, agent, "orders", e)
	client, conn := grpcClient(t, agent, "web", "orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	stream := newStream(t, conn, "/test.Echo/Chat")
	exchange(t, stream)
	rotated := func(n uint64) func() bool {
		return func() bool { return client.Stats().Rotations >= n && server.Stats().Rotations >= n }
	}
	for round := range uint64(3) {
		agent.Rotate()
		awaitTrue(t, rotated(round+2))
		if got, err := say(within(t), conn, grpc.WaitForReady(true)); err != nil || got != "hi /dev/web all" {
			t.Errorf("round %d: got %q, %v", round, got, err)
		}
		exchange(t, stream) // it goes on where it is
	}
	agent.CA.Renew()
	agent.Rotate()
	awaitTrue(t, rotated(5))
	if err := stream.RecvMsg(new(text)); status.Code(err) != codes.Unavailable {
		t.Errorf("a stream under the old root: got %v, want UNAVAILABLE", err)
	}
	// Both ends cut, one after the other: a call may meet the moment between.
	_, err := say(within(t), conn, grpc.WaitForReady(true))
	for soon := within(t); status.Code(err) == codes.Unavailable && soon.Err() == nil; {
		_, err = say(soon, conn, grpc.WaitForReady(true))
	}
	if err != nil {
		t.Errorf("under the new root: %v", err)
	}
}

// A program that keeps copies of its identity learns when there is another, and
// no earlier.
func TestRenewedIsClosedByTheNextIdentity(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	client, _ := grpcClient(t, agent, "web", "orders")
	for range 2 {
		renewed := client.Renewed()
		before, err := client.X509SVID()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-renewed:
			t.Fatal("closed before there was another identity")
		default:
		}
		agent.Rotate()
		select {
		case <-renewed:
		case <-within(t).Done():
			t.Fatal("not closed in time")
		}
		if after, err := client.X509SVID(); err != nil || after == before {
			t.Fatalf("after it was closed: got %v, %v, want another identity", after, err)
		}
	}
}

// awaitTrue asks until it is so; what changes it has no event a test can see.
func awaitTrue(t *testing.T, is func() bool) {
	t.Helper()
	ctx := within(t)
	for !is() {
		if ctx.Err() != nil {
			t.Fatal("not in time")
		}
		runtime.Gosched()
	}
}
