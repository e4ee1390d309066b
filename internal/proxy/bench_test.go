package proxy

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// benchHouse is an application, the callee's proxy and the caller's, in this
// process, so that CPU-µs/req is that of all of them with the client.
func benchHouse(b *testing.B, protocol, app string) (caller *kith.Workload, outbound, upstream string) {
	b.Helper()
	agent := proxytest.Start(b)
	agent.Service("orders", protocol)
	agent.Service("web", "http")
	start := func(as string, cfg Config) *Proxy {
		ctx, cancel := context.WithCancel(context.Background())
		w, err := kith.Open(ctx, kith.Config{Socket: agent.Socket, As: as})
		if err != nil {
			b.Fatal(err)
		}
		cfg.Workload = w
		p, err := New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		b.Cleanup(func() { cancel(); <-done; w.Close() })
		return p
	}
	e, err := ParseExposure("127.0.0.1:0=" + app)
	if err != nil {
		b.Fatal(err)
	}
	start("orders", Config{Expose: []Exposure{e}, Drain: time.Millisecond})
	agent.Registered("orders")
	p := start("web", Config{Outbound: "127.0.0.1:0", Upstreams: []Upstream{{"orders", "127.0.0.1:0"}}, Drain: time.Millisecond})
	if protocol == "tcp" {
		agent.Rules(proxytest.Allow("all", "web", "orders", "tcp"))
	} else {
		agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	}
	return p.cfg.Workload, p.OutboundAddr(), p.UpstreamAddrs()[0]
}

func cpu() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

const benchBody = 1024

func benchRequests(b *testing.B, client *http.Client, target string) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(8)
	before := cpu()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := client.Get(target)
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
	b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/req")
}

// BenchmarkRequest compares, in one run, no proxy, the SDK as caller, and a
// proxy on both sides.
func BenchmarkRequest(b *testing.B) {
	app := serve(b, func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, strings.Repeat("x", benchBody)) })
	caller, outbound, _ := benchHouse(b, "http", app)
	b.Run("direct", func(b *testing.B) {
		transport := &http.Transport{MaxIdleConnsPerHost: 64}
		defer transport.CloseIdleConnections()
		benchRequests(b, &http.Client{Transport: transport}, "http://"+app+"/v1/orders")
	})
	b.Run("sdk-to-proxy", func(b *testing.B) { benchRequests(b, caller.Client(), "http://orders/v1/orders") })
	b.Run("both-proxies", func(b *testing.B) {
		transport := &http.Transport{MaxIdleConnsPerHost: 64, Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: outbound})}
		defer transport.CloseIdleConnections()
		benchRequests(b, &http.Client{Transport: transport}, "http://orders/v1/orders")
	})
}

// BenchmarkTransfer is raw TCP through both proxies, in bytes.
func BenchmarkTransfer(b *testing.B) {
	app := listenTCP(b, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	_, _, upstream := benchHouse(b, "tcp", app)
	conn, err := net.Dial("tcp", upstream)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	piece := make([]byte, 64<<10)
	b.SetBytes(int64(len(piece)))
	before := cpu()
	for b.Loop() {
		if _, err := conn.Write(piece); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu()-before).Seconds()/(float64(b.N)*float64(len(piece))/1e9), "cpu-s/GB")
}
