package kith_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

const benchBody = 1024

func answer(rw http.ResponseWriter, _ *http.Request) {
	io.WriteString(rw, strings.Repeat("x", benchBody))
}

// benchService is a service of the SDK with rules, and the caller that may ask it.
func benchService(b testing.TB) (agent *proxytest.Agent, orders *kith.Workload) {
	b.Helper()
	agent = proxytest.Start(b)
	agent.Service("orders", "http")
	agent.Service("web", "http")
	orders, err := kith.Open(b.Context(), kith.Config{Socket: agent.Socket, As: "orders"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { orders.Close() })
	agent.Rules(proxytest.Allow("all", "web", "orders", "GET /v1/{**}"))
	return agent, orders
}

// discard is a response nobody reads.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// admittedRequest serves a request that is allowed, without any network.
func admittedRequest(t testing.TB) func() {
	t.Helper()
	agent, orders := benchService(t)
	svid, err := agent.CA.Source("/dev/web").X509SVID()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := orders.Peer(tls.ConnectionState{HandshakeComplete: true, PeerCertificates: svid.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(kith.WithPeer(t.Context(), peer), http.MethodGet, "/v1/orders?q=1", nil)
	handler := orders.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 0)
	rw := &discard{make(http.Header)}
	return func() { handler.ServeHTTP(rw, r) }
}

// BenchmarkHandler is what Handler adds to a request.
func BenchmarkHandler(b *testing.B) {
	serve := admittedRequest(b)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}

// The request's copy and its context: deciding allocates nothing.
func TestHandlerAllocatesTwice(t *testing.T) {
	serve := admittedRequest(t)
	serve() // the first of a second is reported
	if n := testing.AllocsPerRun(1000, serve); n > 2 {
		t.Errorf("got %v allocations a request, want 2", n)
	}
}

// BenchmarkServe compares, in one run, a plain Go server with mutual TLS and the
// SDK's, asked by the same clients over the same kind of connections.
func BenchmarkServe(b *testing.B) {
	agent, orders := benchService(b)
	caller := agent.CA.Source("/dev/web")
	serve := func(server *http.Server, listener net.Listener) {
		go server.Serve(listener)
		b.Cleanup(func() { server.Close() })
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	plain, own := listen(), listen()
	config := spiffe.ServerTLS(orders, time.Now, nil)
	config.NextProtos = []string{"h2", "http/1.1"}
	serve(&http.Server{Handler: http.HandlerFunc(answer), TLSConfig: config}, tls.NewListener(plain, config))
	serve(orders.Server(orders.Handler(http.HandlerFunc(answer), 0)), orders.Listener(own, "h2", "http/1.1"))
	for _, proto := range []string{"http/1.1", "h2"} {
		for name, at := range map[string]net.Addr{"plain": plain.Addr(), "sdk": own.Addr()} {
			b.Run(proto+"/"+name, func(b *testing.B) { ask(b, caller, proto, at.String()) })
		}
	}
}

func ask(b *testing.B, caller spiffe.Source, proto, address string) {
	config := spiffe.ClientTLS(caller, time.Now, func(spiffe.ID) error { return nil })
	config.NextProtos = []string{proto}
	transport := &http.Transport{
		ForceAttemptHTTP2: proto == "h2", MaxIdleConnsPerHost: 64,
		DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return (&tls.Dialer{Config: config}).DialContext(ctx, network, addr)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	b.ReportAllocs()
	b.SetParallelism(8)
	before := cpuTime()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := client.Get("https://" + address + "/v1/orders")
			if err != nil {
				b.Error(err)
				return
			}
			n, _ := io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || n != benchBody {
				b.Errorf("got %d, %d bytes", res.StatusCode, n)
				return
			}
		}
	})
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/req")
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
