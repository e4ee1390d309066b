package kith_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func open(t *testing.T, agent *proxytest.Agent, cfg kith.Config) *kith.Workload {
	t.Helper()
	cfg.Socket = agent.Socket
	w, err := kith.Open(within(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return w
}

// serveSDK serves handler in process and returns when it is in the directory.
func serveSDK(t *testing.T, agent *proxytest.Agent, as string, handler http.HandlerFunc) (w *kith.Workload, addr string) {
	t.Helper()
	agent.Service(as, "http")
	w = open(t, agent, kith.Config{As: as})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx, handler, "127.0.0.1:0") }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w, agent.Registered(as)[0]
}

// A server that ends withdraws its address before it waits for what is under way.
func TestServeWithdrawsBeforeItDrains(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("orders", "http")
	w := open(t, agent, kith.Config{As: "orders"})
	begun, release := make(chan struct{}), make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- w.Serve(ctx, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(begun)
			<-release
		}), "127.0.0.1:0")
	}()
	t.Cleanup(func() {
		let()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	agent.Registered("orders")
	agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	_, c := client(t, agent, "web")
	got := make(chan error, 1)
	go func() {
		res, err := c.Get("http://orders/")
		if err == nil {
			err = res.Body.Close()
		}
		got <- err
	}()
	<-begun
	cancel()
	agent.Await("withdrawal of the address", func() bool { return agent.AddressesLocked("orders") == 0 })
	let()
	if err := <-got; err != nil {
		t.Errorf("the request under way: %v", err)
	}
}

func client(t *testing.T, agent *proxytest.Agent, as string) (*kith.Workload, *http.Client) {
	t.Helper()
	agent.Service(as, "http")
	w := open(t, agent, kith.Config{As: as})
	agent.Settled()
	return w, w.Client()
}

func fetch(t *testing.T, c *http.Client, target string) (int, string) {
	t.Helper()
	res, err := c.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

func TestClientAndServerInProcess(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	serveSDK(t, agent, "orders", func(rw http.ResponseWriter, r *http.Request) {
		caller, ok := kith.CallerOf(r.Context())
		if !ok || !caller.Decision.Allowed {
			t.Error("the handler is not told who calls")
			return
		}
		fmt.Fprintf(rw, "%s %s %s from %s by %s", r.Proto, r.URL.EscapedPath(), r.RequestURI, caller.Peer.ID(), caller.Decision.Rule)
	})
	w, c := client(t, agent, "web")
	if w.ID().String() != "spiffe://test.example/dev/web" || !w.Dev() || w.Node() != "dev" || w.Service() != "web" {
		t.Errorf("workload: %s on %q, service %q", w.ID(), w.Node(), w.Service())
	}
	if status, body := fetch(t, c, "http://orders/v1"); status != 403 || !strings.Contains(body, "kith why ") {
		t.Errorf("without a rule: got %d %q", status, body)
	}
	agent.Rules(proxytest.Allow("reads", "web", "orders", "GET /v1/{**}"))
	if status, body := fetch(t, c, "http://orders/v1/./a%2db?q=1"); status != 200 ||
		body != "HTTP/2.0 /v1/a-b /v1/a-b?q=1 from spiffe://test.example/dev/web by reads" {
		t.Errorf("with a rule: got %d %q", status, body)
	}
	if status, _ := fetch(t, c, "http://orders/v1//a"); status != 400 {
		t.Errorf("two readings: got %d, want 400", status)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	for name, c := range map[string]struct {
		cfg  kith.Config
		kind fault.Kind
		want string
	}{
		"no agent":         {kith.Config{Socket: filepath.Join(t.TempDir(), "a")}, fault.NotFound, "no agent socket"},
		"claim refused":    {kith.Config{Socket: agent.Socket, As: "refused"}, fault.Denied, "may not claim"},
		"no identity":      {kith.Config{Socket: agent.Socket, As: "nobody"}, fault.Denied, "no identity issued"},
		"socket too long":  {kith.Config{Socket: "/" + strings.Repeat("x", 200)}, fault.Invalid, "too long"},
		"relative socket":  {kith.Config{Socket: "agent.sock"}, fault.Invalid, "absolute"},
		"TCP socket":       {kith.Config{Socket: "tcp://127.0.0.1:1"}, fault.Invalid, "no agent of Kith is on TCP"},
		"another scheme":   {kith.Config{Socket: "npipe://agent"}, fault.Invalid, "not a unix socket"},
		"socket authority": {kith.Config{Socket: "unix://run/agent.sock"}, fault.Invalid, "authority"},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := kith.Open(within(t), c.cfg)
			if err == nil {
				w.Close()
			}
			if fault.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got %v (%v), want %q (%v)", err, fault.KindOf(err), c.want, c.kind)
			}
		})
	}
}

func TestOpenFindsTheSocketInTheEnvironment(t *testing.T) {
	agent := proxytest.Start(t)
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "unix://"+agent.Socket)
	// Under kith run these lead to ourselves and must not be used.
	t.Setenv("https_proxy", "http://127.0.0.1:1")
	t.Setenv("grpc_proxy", "http://127.0.0.1:1")
	w, err := kith.Open(within(t), kith.Config{As: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

func TestUnknownServiceNamesTheNearest(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("orders", "http")
	_, c := client(t, agent, "web")
	_, err := c.Get("http://ordrs/")
	var unknown *kith.UnknownServiceError
	if !errors.As(err, &unknown) || unknown.Nearest != "orders" {
		t.Errorf("got %v, want the nearest name orders", err)
	}
	_, err = c.Get("http://orders/")
	var none *kith.NoEndpointError
	if !errors.As(err, &none) {
		t.Errorf("got %v, want NoEndpointError", err)
	}
	if _, err := c.Get("https://orders/"); err == nil {
		t.Error("https: want an error")
	}
}

// A request whose endpoint is dead goes to another one, with its body, because
// nothing of it was sent.
func TestDeadEndpointIsPassedOver(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	_, addr := serveSDK(t, agent, "orders", func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(rw, r.Body)
	})
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	agent.Replace(&pb.Service{Name: "orders", Identities: []string{"/dev/orders"}, Protocol: "http", Endpoints: []string{dead.Addr().String(), addr}})
	_, c := client(t, agent, "web")
	agent.Rules(proxytest.Allow("all", "web", "orders", "POST /{**}"))
	for range 6 {
		body := &closeCounter{Reader: strings.NewReader("hello")}
		res, err := c.Post("http://orders/", "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(got) != "hello" {
			t.Errorf("got %q", got)
		}
		if body.closed.Load() == 0 {
			t.Error("the request's body was not closed")
		}
	}
}

type closeCounter struct {
	io.Reader

	closed atomic.Int32
}

func (c *closeCounter) Close() error { c.closed.Add(1); return nil }

func TestWrongIdentityIsNotCalled(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	_, addr := serveSDK(t, agent, "orders", func(http.ResponseWriter, *http.Request) { t.Error("the wrong service was asked") })
	agent.Service("billing", "http", addr)
	w, c := client(t, agent, "web")
	_, err := c.Get("http://billing/")
	var wrong *kith.IdentityError
	if !errors.As(err, &wrong) || wrong.Got.String() != "spiffe://test.example/dev/orders" {
		t.Errorf("got %v, want IdentityError", err)
	}
	if _, err := w.Dial(within(t), "billing"); !errors.As(err, &wrong) {
		t.Errorf("Dial: got %v, want IdentityError", err)
	}
}

// With the agent away a workload goes on until its SVID ends, and not longer.
func TestServesFromMemoryUntilExpiry(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	var skew atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	w := open(t, agent, kith.Config{As: "web", Now: now})
	agent.Kill()
	skew.Store(int64(59 * time.Minute))
	if _, err := w.X509SVID(); err != nil {
		t.Errorf("before the end: %v", err)
	}
	skew.Store(int64(61 * time.Minute))
	if _, err := w.X509SVID(); fault.KindOf(err) != fault.Denied {
		t.Errorf("after the end: got %v, want a Denied error", err)
	}
	if d := w.Decide(&kith.Peer{}, kith.Request{Protocol: kith.HTTP, Method: "GET", Path: "/"}); d.Reason != "no_policy" {
		t.Errorf("a decision after the end: got %+v, want no_policy", d)
	}
	td, _ := spiffe.ParseTrustDomain("other.example")
	if _, ok := w.Bundle(td); ok {
		t.Error("bundle of a domain nobody federated with")
	}
}

func TestIdentityOfSeveralServicesMustChoose(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("orders", "http")
	w := open(t, agent, kith.Config{As: "orders", Service: "billing"})
	if got := agent.AckError(); !strings.Contains(got, "billing") {
		t.Errorf("ack: got %q", got)
	}
	peer := &kith.Peer{}
	if d := w.Decide(peer, kith.Request{Protocol: kith.HTTP, Method: "GET", Path: "/"}); d.Allowed || d.Reason != "no_policy" {
		t.Errorf("got %+v, want no_policy", d)
	}
}

func TestZeroDecisionDenies(t *testing.T) {
	t.Parallel()
	if (kith.Decision{}).Allowed {
		t.Error("the zero Decision allows")
	}
	agent := proxytest.Start(t)
	w := open(t, agent, kith.Config{As: "web"})
	if d := w.Decide(nil, kith.Request{Protocol: kith.HTTP, Method: "GET", Path: "/"}); d.Allowed {
		t.Error("nobody was allowed")
	}
}

// A live exchange ends with the identity it was decided under.
func TestLiveExchangeEndsWithTheIdentity(t *testing.T) {
	t.Parallel()
	agent := proxytest.Start(t)
	agent.Service("db", "tcp")
	agent.CA.TTL(1500 * time.Millisecond)
	w := open(t, agent, kith.Config{As: "db"})
	agent.Rules(proxytest.Allow("all", "any", "db", "tcp"))
	own, err := w.X509SVID()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := w.Peer(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: own.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	cut := make(chan kith.Decision, 1)
	d, release := w.Hold(peer, kith.Request{Protocol: kith.TCP}, func(d kith.Decision) { cut <- d })
	defer release()
	if !d.Allowed {
		t.Fatalf("got %+v", d)
	}
	select {
	case d := <-cut:
		if d.Reason != "no_policy" {
			t.Errorf("reason: got %q", d.Reason)
		}
	case <-within(t).Done():
		t.Error("not cut")
	}
}
