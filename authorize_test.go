package kith_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// weekday allows what it is told to and counts how often it was asked.
type weekday struct {
	open  atomic.Bool
	asked atomic.Int32
	saw   atomic.Pointer[kith.Request]
}

func (d *weekday) authorize(ctx context.Context, caller kith.Caller, request kith.Request) error {
	d.asked.Add(1)
	d.saw.Store(&request)
	if id, ok := kith.Identity(ctx); !ok || id != caller.Peer.ID() || !caller.Decision.Allowed {
		return errors.New("the check is not told who calls")
	}
	if !d.open.Load() {
		return errors.New("closed on Mondays")
	}
	return nil
}

func (d *weekday) reported(t *testing.T, agent *proxytest.Agent, path string) {
	t.Helper()
	got := agent.Decision("the check's denial of "+path, func(got *pb.Decision) bool {
		return got.GetReason() == "own_check" && got.GetPath() == path
	})
	if got.GetEffect() != "deny" || got.GetNearRule() != "all" || got.GetNearGot() != "closed on Mondays" {
		t.Errorf("reported: %v", got)
	}
	for _, other := range agent.Decisions() {
		if other.GetPath() == path && other.GetEffect() == "allow" {
			t.Errorf("an allow was reported of what was denied: %v", other)
		}
	}
}

func TestAuthorizerNarrowsHTTP(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("orders", "http")
	w := open(t, agent, kith.Config{As: "orders"})
	day := &weekday{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(http.StatusNoContent) })
	go func() { done <- w.Serve(ctx, handler, "127.0.0.1:0", kith.WithAuthorizer(day.authorize)) }()
	defer func() { cancel(); <-done }()
	agent.Registered("orders")
	_, c := client(t, agent, "web")
	day.open.Store(true)
	if status, _ := fetch(t, c, "http://orders/v1"); status != 403 || day.asked.Load() != 0 {
		t.Errorf("policy says no and the check yes: got %d, asked %d times, want 403 and never", status, day.asked.Load())
	}
	agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	day.open.Store(false)
	if status, body := fetch(t, c, "http://orders/./v2"); status != 403 || strings.Contains(body, "Monday") || !strings.Contains(body, "kith why ") {
		t.Errorf("policy says yes and the check no: got %d %q, want 403 and no reason", status, body)
	}
	day.reported(t, agent, "/v2")
	if got := day.saw.Load(); got.Path != "/v2" {
		t.Errorf("the check saw %+v, want the path that was decided", got)
	}
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, "http://orders/v3", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream") // an exchange that is held
	if res, err := c.Do(req); err != nil || res.StatusCode != 403 {
		t.Errorf("a held exchange: got %v, %v", res, err)
	}
	day.open.Store(true)
	if status, _ := fetch(t, c, "http://orders/v2"); status != 204 {
		t.Errorf("both say yes: got %d", status)
	}
}

func TestAuthorizerNarrowsGRPC(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	day := &weekday{}
	second := func(context.Context, kith.Caller, kith.Request) error { return nil }
	serveGRPC(t, agent, "orders", newEcho(), kith.WithAuthorizer(day.authorize), kith.WithAuthorizer(second))
	_, conn := grpcClient(t, agent, "web", "orders")
	day.open.Store(true)
	_, err := say(within(t), conn)
	mustBeDenied(t, "policy says no and the check yes", err)
	mustBeDenied(t, "likewise a stream", newStream(t, conn, "/test.Echo/Chat").RecvMsg(new(text)))
	if n := day.asked.Load(); n != 0 {
		t.Errorf("the check was asked %d times about what policy denies", n)
	}
	agent.Rules(proxytest.Allow("all", "web", "orders", "grpc test.Echo/*"))
	day.open.Store(false)
	_, err = say(within(t), conn)
	mustBeDenied(t, "policy says yes and the check no", err)
	day.reported(t, agent, "/test.Echo/Say")
	mustBeDenied(t, "likewise a stream", newStream(t, conn, "/test.Echo/Chat").RecvMsg(new(text)))
	day.reported(t, agent, "/test.Echo/Chat")
	day.open.Store(true)
	if err := conn.Invoke(within(t), "/test.Echo/Say", wrapperspb.String("hi"), new(text)); err != nil {
		t.Errorf("both say yes: %v", err)
	}
	exchange(t, newStream(t, conn, "/test.Echo/Chat"))
}
