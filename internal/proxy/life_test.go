package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

func TestRotationUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, echo))
	out, client := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST /{**}"))
	const rotations = 100
	var asked, failed atomic.Int64
	stop := make(chan struct{})
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Post("http://orders/x", "text/plain", strings.NewReader("body"))
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				if err != nil || res.StatusCode != 200 {
					if failed.Add(1) < 5 {
						t.Errorf("request failed: %v, %v", res, err)
					}
				}
				asked.Add(1)
			}
		})
	}
	for i := range rotations {
		before := out.cfg.Workload.Stats().Rotations
		h.agent.Rotate()
		await(t, fmt.Sprint("rotation ", i), func() bool { return out.cfg.Workload.Stats().Rotations > before })
		goal := asked.Load() + 4
		await(t, "requests between rotations", func() bool { return asked.Load() >= goal })
	}
	close(stop)
	running.Wait()
	t.Logf("%d requests over %d rotations", asked.Load(), rotations)
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed", n, asked.Load())
	}
}

// await polls for a state that no event announces.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx := soon(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %s within %v", what, proxytest.Patience)
		}
	}
}

func TestAgentKilledAndBack(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, echo))
	_, client := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	for range 3 {
		h.agent.Kill()
		if status, body, _ := get(t, client, "http://orders/x"); status != 200 {
			t.Fatalf("agent away: got %d %q, want 200 from memory", status, body)
		}
		h.agent.Listen()
		h.agent.Registered("orders")
		h.agent.Await("both workloads back", func() bool { return h.agent.AttachedLocked() == 2 })
		h.agent.Settled()
		if status, body, _ := get(t, client, "http://orders/x"); status != 200 {
			t.Fatalf("agent back: got %d %q", status, body)
		}
	}
	h.agent.Rules()
	if status, _, _ := get(t, client, "http://orders/x"); status != 403 {
		t.Errorf("a change after the return: got %d, want 403", status)
	}
}

func TestStartsClosed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	app := &seen{}
	_, addr := h.expose("orders", "http", serve(t, app.ServeHTTP))
	h.agent.Service("web", "http")
	h.agent.Schema(99) // a policy this proxy does not understand
	if got := h.agent.AckError(); !strings.Contains(got, "schema") {
		t.Errorf("ack: got %q", got)
	}
	h.agent.Change(func() {})
	got := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
	if got.status != 403 {
		t.Errorf("policy not understood: got %d, want 403", got.status)
	}
	d := h.agent.Decision("the denial", func(d *pb.Decision) bool { return d.GetId() == got.head.Get("Kith-Decision") })
	if d.GetReason() != "no_policy" {
		t.Errorf("reason: got %q, want no_policy", d.GetReason())
	}
	if len(app.take()) > 0 {
		t.Error("the application was asked")
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, echo))
	h.agent.Rules(proxytest.Allow("all", "any", "orders", "GET /{**}"))
	try := func(config *tls.Config) error {
		conn, err := tls.Dial("tcp", addr, config)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(proxytest.Patience))
		fmt.Fprintf(conn, "GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	stranger := proxytest.NewCA(t).Source("/dev/web")
	svid, _ := stranger.X509SVID()
	old := peerTLS(h, "web")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	alien := peerTLS(h, "web")
	alien.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return svid.TLSCertificate(), nil }
	none := peerTLS(h, "web")
	none.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	for name, config := range map[string]*tls.Config{"another CA's SVID": alien, "no certificate": none, "TLS 1.2": old} {
		if err := try(config); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v, want an alert", name, err)
		}
	}
	if err := try(peerTLS(h, "web")); err != nil {
		t.Errorf("a proper peer: %v", err)
	}
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(proxytest.Patience))
	fmt.Fprintf(raw, "GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
	if answer, _ := io.ReadAll(raw); strings.Contains(string(answer), "200") {
		t.Errorf("plain text: got %q", answer)
	}
}

// A connection whose peer's root has left the bundle is cut while it is open.
func TestRootRemovedCutsConnections(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, echo))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	p := dialPeer(t, h, "web", addr, "http/1.1")
	if got := p.ask("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n"); got.status != 200 {
		t.Fatalf("got %d", got.status)
	}
	h.agent.CA.Renew()
	h.agent.Rotate()
	if _, err := p.r.ReadByte(); err == nil {
		t.Error("the connection is still open")
	}
}

// Between the withdrawal of its endpoint and the end of its listener a proxy serves
// new callers: not all of them know yet.
func TestCallersThatDoNotKnowOfTheWithdrawalAreServed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.agent.Service("orders", "http")
	e, _ := ParseExposure("127.0.0.1:0=" + serve(t, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "done") }))
	known := make(chan time.Time)
	tell := sync.OnceFunc(func() { close(known) })
	p, stop := h.run("orders", func(c *Config) {
		c.Expose, c.after = []Exposure{e}, func(time.Duration) <-chan time.Time { return known }
	})
	t.Cleanup(tell)
	h.agent.Registered("orders")
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	h.agent.Await("withdrawal of the endpoint", func() bool { return h.agent.AddressesLocked("orders") == 0 })
	late := dialPeer(t, h, "web", p.InboundAddrs()[0], "http/1.1")
	if got := late.ask("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n"); got.status != 200 || got.body != "done" {
		t.Errorf("a new caller: got %d %q", got.status, got.body)
	}
	tell()
	<-stopped
}

func TestDrain(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	begun, release := make(chan struct{}), make(chan struct{})
	h.agent.Service("orders", "http")
	e, _ := ParseExposure("127.0.0.1:0=" + serve(t, func(rw http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		io.WriteString(rw, "done")
	}))
	p, stop := h.run("orders", func(c *Config) { c.Expose = []Exposure{e} })
	h.agent.Registered("orders")
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	caller := dialPeer(t, h, "web", p.InboundAddrs()[0], "http/1.1")
	caller.send("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
	<-begun
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	h.agent.Await("withdrawal of the endpoint", func() bool { return h.agent.AddressesLocked("orders") == 0 })
	await(t, "closed listener", func() bool {
		conn, err := net.Dial("tcp", p.InboundAddrs()[0])
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(release)
	if got := caller.read(); got.status != 200 || got.body != "done" {
		t.Errorf("the request under way: got %d %q", got.status, got.body)
	}
	<-stopped
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	w := h.open("orders")
	taken := listenTCP(t, func(net.Conn) {})
	remote, _ := ParseExposure("0=10.1.2.3:80")
	busy, _ := ParseExposure(taken + "=8080")
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"nothing to do":      {Config{Workload: w}, "nothing to do"},
		"no workload":        {Config{Outbound: "127.0.0.1:0"}, "without a workload"},
		"remote application": {Config{Workload: w, Expose: []Exposure{remote}}, "plain text"},
		"port taken":         {Config{Workload: w, Expose: []Exposure{busy}}, "address already in use"},
		"public outbound":    {Config{Workload: w, Outbound: "0.0.0.0:0"}, "not a loopback address"},
	} {
		p, err := New(c.cfg)
		if err == nil {
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) == fault.Internal {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	p, err := New(Config{Workload: w, Outbound: "127.0.0.1:0", Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	registry := prometheus.NewRegistry()
	h.expose("orders", "http", serve(t, echo), func(c *Config) { c.Metrics = registry })
	_, client := h.outbound("web")
	get(t, client, "http://orders/x")
	denied := 0.0
	for deadline := time.Now().Add(proxytest.Patience); denied == 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond) // an answer is counted once it is written
		denied = requestsThatWere(t, registry, outcomeDenied)
	}
	if denied != 1 {
		t.Errorf("denied requests: got %v, want 1", denied)
	}
}

func requestsThatWere(t *testing.T, registry *prometheus.Registry, outcome string) (n float64) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if family.GetName() == "kith_proxy_requests_total" && label.GetValue() == outcome {
					n += metric.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}
