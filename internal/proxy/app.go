package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kith-id/kith"
)

// appIdle is less than the keep-alive of the usual servers (gunicorn 2 s, Node
// and uvicorn 5 s), so that we close first: a POST that meets a connection the
// application is closing could not be sent again.
const appIdle = 1500 * time.Millisecond

// flushAfter is how long a part of an answer of known length may wait for more
// of it. What has no length, as streams, ReverseProxy passes on at once.
const flushAfter = 2 * time.Millisecond

// app forwards allowed requests to the application. It sees a request after the
// SDK has decided it, with the path that was decided.
type app struct {
	p        *Proxy
	e        Exposure
	plain    *http.Transport // HTTP/1.1, which every HTTP server speaks
	grpc     *http.Transport // HTTP/2 with prior knowledge, for gRPC
	forward  *httputil.ReverseProxy
	hijacked group
}

func newApp(p *Proxy, e Exposure) *app {
	a := &app{p: p, e: e}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx) }
	a.plain = &http.Transport{
		DialContext: dial, DisableCompression: true,
		MaxIdleConns: 256, MaxIdleConnsPerHost: 256, IdleConnTimeout: appIdle,
		ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize: 16 << 10, ReadBufferSize: 16 << 10,
	}
	a.grpc = &http.Transport{
		DialContext: dial, DisableCompression: true, IdleConnTimeout: 5 * time.Minute,
		MaxResponseHeaderBytes: 256 << 10,
		Protocols:              new(http.Protocols),
	}
	a.grpc.Protocols.SetUnencryptedHTTP2(true)
	a.forward = &httputil.ReverseProxy{
		Rewrite:        a.rewrite,
		Transport:      a,
		FlushInterval:  -1, // what the application sends is passed on at once
		BufferPool:     p.meter.buffers,
		ErrorHandler:   a.fail,
		ModifyResponse: tidy,
		ErrorLog:       slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	return a
}

func (a *app) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: appDialTimeout}
	return dialer.DialContext(ctx, a.e.Network, a.e.Target)
}

func (a *app) closeIdle() {
	a.plain.CloseIdleConnections()
	a.grpc.CloseIdleConnections()
}

// ServeHTTP forwards one allowed request.
func (a *app) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch upgrades(r.Header) {
	case webSocket:
		a.hijacked.enter()
		defer a.hijacked.leave()
	case toIgnore:
		r.Header.Del("Upgrade")
	case toRefuse:
		answer(rw, r, http.StatusNotImplemented, "of upgrades only WebSocket is passed on; for a protocol of its own let the service be one of protocol tcp")
		return
	}
	duplex(rw, r, a.forward)
}

// rewrite makes the request the application gets. The hop-by-hop headers, and
// what Connection named, are already gone, so a caller cannot have the headers
// that are set here removed.
func (a *app) rewrite(pr *httputil.ProxyRequest) {
	caller, _ := kith.CallerOf(pr.In.Context())
	strip(pr.Out.Header)
	remote, _, _ := net.SplitHostPort(pr.In.RemoteAddr)
	if caller.Peer != nil {
		vouch(pr.Out.Header, caller, a.p.cfg.Workload.ID(), remote)
	}
	pr.Out.URL = &url.URL{
		Scheme: "http", Host: "application", // the transports dial the one target they have
		Path: pr.In.URL.Path, RawPath: pr.In.URL.RawPath, RawQuery: pr.In.URL.RawQuery, ForceQuery: pr.In.URL.ForceQuery,
	}
	pr.Out.Host = pr.In.Host
	trail(pr)
}

// tidy mends an answer of the application before it is passed on.
func tidy(res *http.Response) error {
	res.Header.Del(kith.DecisionHeader) // ours alone
	if res.ProtoMajor != 2 || res.Header.Get("Grpc-Status") == "" {
		return nil
	}
	// A trailers-only answer of gRPC has its status in the head, which must then
	// end the stream. It would not once the head is flushed early; in trailers
	// the status is right in both cases.
	if res.Trailer == nil {
		res.Trailer = make(http.Header)
	}
	for _, name := range []string{"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin"} {
		if values, ok := res.Header[name]; ok {
			res.Trailer[name] = values
			delete(res.Header, name)
		}
	}
	return nil
}

// errPath says that the URL package would write another path than was decided.
var errPath = errors.New("path to forward differs from the path decided")

// RoundTrip sends the request by HTTP/1.1, or by HTTP/2 if it is gRPC.
func (a *app) RoundTrip(r *http.Request) (*http.Response, error) {
	caller, ok := kith.CallerOf(r.Context())
	if !ok || !caller.Decision.Allowed || r.URL.EscapedPath() != caller.Decision.Path {
		return nil, errPath // the last line of defence: what is forwarded is what was decided
	}
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") ||
		a.p.cfg.Workload.Protocol() == kith.GRPC {
		return a.grpc.RoundTrip(r)
	}
	return a.plain.RoundTrip(r)
}

// fail answers for an application that did not.
func (a *app) fail(rw http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		// The caller has gone, or the exchange was cut and its end is said elsewhere.
		panic(http.ErrAbortHandler)
	}
	a.explain(rw, r, err)
}

// explain says what went wrong: little to the caller, more to the log.
func (a *app) explain(rw http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadGateway, "the application did not answer"
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		text = "the application is not listening"
		a.p.log.Warn("application not reached", "application", a.e.Target, "error", err)
	case errors.Is(err, errPath):
		status, text = http.StatusBadRequest, "path is not in its normal form"
		a.p.log.Error("request not forwarded", "error", err)
	case errors.As(err, &tooLarge):
		status, text = http.StatusRequestEntityTooLarge, "request is too large"
	default:
		a.p.log.Warn("application failed", "application", a.e.Target, "error", err)
	}
	answer(rw, r, status, text)
}

// answer writes a short error in the words of the protocol.
func answer(rw http.ResponseWriter, r *http.Request, status int, text string) {
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		rw.Header().Set("Content-Type", "application/grpc")
		rw.Header().Set("Grpc-Status", "14") // UNAVAILABLE
		rw.Header().Set("Grpc-Message", grpcMessage(text))
		rw.WriteHeader(http.StatusOK)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	rw.WriteHeader(status)
	rw.Write([]byte("kith: " + text + "\n")) //nolint:errcheck // the caller has gone
}

// grpcMessage escapes what Grpc-Message cannot hold (gRPC over HTTP/2, Status).
func grpcMessage(text string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < 0x20 || c > 0x7e || c == '%' {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// group counts exchanges that net/http no longer knows of after Hijack.
type group struct {
	mu    sync.Mutex
	count int           // guarded by mu
	empty chan struct{} // closed when count falls to zero while somebody waits; guarded by mu
}

func (g *group) enter() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count++
}

func (g *group) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count--; g.count == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// wait returns when none is left or ctx has ended.
func (g *group) wait(ctx context.Context) {
	g.mu.Lock()
	if g.count == 0 {
		g.mu.Unlock()
		return
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}
