package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a node with an agent, on which tests run proxies.
type house struct {
	t     *testing.T
	agent *proxytest.Agent
}

func newHouse(t *testing.T) *house {
	t.Helper()
	return &house{t: t, agent: proxytest.Start(t)}
}

func (h *house) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{h.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testLog writes to the test's log, which shows only when it fails.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Helper()
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// open attaches a workload as a service.
func (h *house) open(as string) *kith.Workload {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), proxytest.Patience)
	defer cancel()
	w, err := kith.Open(ctx, kith.Config{Socket: h.agent.Socket, As: as})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { w.Close() })
	return w
}

// run runs a proxy until the test ends, or until the returned stop.
func (h *house) run(as string, change func(*Config)) (p *Proxy, stop func()) {
	h.t.Helper()
	cfg := Config{Workload: h.open(as), Drain: 5 * time.Second}
	if testing.Verbose() {
		cfg.Log = h.logger()
	}
	change(&cfg)
	p, err := New(cfg)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = func() {
		h.t.Helper()
		cancel()
		select {
		case err := <-done:
			done <- nil
			if err != nil {
				h.t.Errorf("Run: %v", err)
			}
		case <-time.After(proxytest.Patience):
			h.t.Error("Run does not return")
		}
	}
	h.t.Cleanup(func() {
		if ctx.Err() == nil { // the test has shown what it shows: nothing is worth waiting for
			p.cfg.Drain = time.Millisecond
		}
		stop()
	})
	return p, stop
}

// expose runs an application behind a proxy and returns the proxy's address.
func (h *house) expose(as, protocol string, app string, change ...func(*Config)) (p *Proxy, addr string) {
	h.t.Helper()
	h.agent.Service(as, protocol)
	p, _ = h.run(as, func(c *Config) {
		e, err := ParseExposure("127.0.0.1:0=" + app)
		if err != nil {
			h.t.Fatal(err)
		}
		c.Expose = []Exposure{e}
		for _, f := range change {
			f(c)
		}
	})
	h.agent.Registered(as)
	return p, p.InboundAddrs()[0]
}

// outbound runs a caller's proxy and returns a client that uses it.
func (h *house) outbound(as string, change ...func(*Config)) (*Proxy, *http.Client) {
	h.t.Helper()
	h.agent.Service(as, "http")
	p, _ := h.run(as, func(c *Config) {
		c.Outbound = "127.0.0.1:0"
		for _, f := range change {
			f(c)
		}
	})
	h.agent.Settled()
	at := &url.URL{Scheme: "http", Host: p.OutboundAddr()}
	transport := &http.Transport{Proxy: http.ProxyURL(at), DisableCompression: true}
	h.t.Cleanup(transport.CloseIdleConnections)
	return p, &http.Client{Transport: transport, Timeout: proxytest.Patience}
}

// serve runs a plain HTTP application on loopback and returns its address.
func serve(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// get asks and returns status, body and head.
func get(t *testing.T, client *http.Client, target string) (int, string, http.Header) {
	t.Helper()
	res, err := client.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body), res.Header
}

// listenTCP runs handle for each connection on loopback.
func listenTCP(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return l.Addr().String()
}
