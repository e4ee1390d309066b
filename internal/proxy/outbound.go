package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/kith-id/kith"
)

const (
	maxLocalHeader = 256 << 10        // the local program is ours; its cookies may be long
	maxLocal       = 8192             // connections of local programs at once
	serviceIdle    = 90 * time.Second // how long a connection to a service is kept
)

// outbound is the local HTTP proxy that the proxy variables lead to. A bare name
// is a service; everything else goes on the way it would have gone without us,
// and without an identity.
type outbound struct {
	p        *Proxy
	listener net.Listener
	before   *before
	services *httputil.ReverseProxy
	others   *httputil.ReverseProxy
	balanced *balancing      // services reached through load balancers
	plain    *http.Transport // to hosts that are no services
	tunnels  group
	lane     *outLane
	queue    *handover // to net/http
}

func newOutbound(p *Proxy) (*outbound, error) {
	l, err := listen("outbound listener", p.cfg.Outbound)
	if err != nil {
		return nil, err
	}
	o := &outbound{p: p, listener: newGate(l, p.cfg.AllowUIDs, p.log), before: newBefore(p.cfg.Environ), queue: newHandover(l.Addr())}
	o.lane = &outLane{o: o, pool: newPool[kith.Endpoint](serviceIdle, p.meter.sheets)}
	o.plain = &http.Transport{
		Proxy: o.before.proxyOf, DisableCompression: true,
		MaxIdleConns: 256, MaxIdleConnsPerHost: 32, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, ExpectContinueTimeout: time.Second, MaxResponseHeaderBytes: 256 << 10,
	}
	o.services = o.forwarder(p.cfg.Workload.TransportHTTP1())
	o.others = o.forwarder(o.plain)
	if o.balanced, err = newBalancing(o, p.cfg.Via); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return o, nil
}

func (o *outbound) forwarder(transport http.RoundTripper) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Host = pr.In.Host
			trail(pr)
		},
		Transport:     transport,
		FlushInterval: flushAfter,
		BufferPool:    o.p.meter.buffers,
		ErrorHandler:  o.fail,
		ErrorLog:      slog.NewLogLogger(o.p.log.Handler(), slog.LevelDebug),
	}
}

func (o *outbound) closeIdle() {
	o.plain.CloseIdleConnections()
	o.lane.pool.close()
	o.balanced.closeIdle()
}

func (o *outbound) serve(ctx, work context.Context) error {
	server := &http.Server{
		Handler:                      o.p.meter.tally("outbound").measure(o),
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  5 * time.Minute,
		MaxHeaderBytes:               maxLocalHeader,
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return work },
		ErrorLog:                     slog.NewLogLogger(o.p.log.Handler(), slog.LevelDebug),
	}
	lines := newLines(o.lane, o.p.meter, "outbound")
	var running sync.WaitGroup
	running.Go(func() { server.Serve(o.queue) }) //nolint:errcheck // it ends by Shutdown only
	a := acceptor{l: o.listener, most: maxLocal, log: o.p.log, running: &running}
	err := a.accept(ctx, func(conn net.Conn) { lines.serve(work, conn, &localFacts{}) })
	running.Go(func() { lines.drain(work) })
	server.Shutdown(work) //nolint:errcheck // Close below ends what is left
	o.tunnels.wait(work)
	err = errors.Join(err, server.Close())
	running.Wait()
	return err
}

// ServeHTTP takes one request of a local program.
func (o *outbound) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		o.connect(rw, r)
	case !r.URL.IsAbs() || r.URL.Host == "":
		answer(rw, r, http.StatusBadRequest, "this is an HTTP proxy for local programs; set http_proxy=http://"+o.listener.Addr().String())
	case !o.isService(r.URL.Hostname()):
		duplex(rw, r, o.enterUpgrade(r, o.others))
	case r.URL.Scheme != "http":
		answer(rw, r, http.StatusBadGateway, "use http://"+r.URL.Hostname()+": Kith encrypts between the proxies")
	default:
		way, err := o.balanced.way(r.URL.Hostname())
		switch {
		case err != nil:
			o.fail(rw, r, err)
		case way != nil:
			duplex(rw, r, o.enterUpgrade(r, way.handler))
		default:
			duplex(rw, r, o.enterUpgrade(r, o.services))
		}
	}
}

// enterUpgrade counts a request that will leave net/http's sight.
func (o *outbound) enterUpgrade(r *http.Request, next http.Handler) http.Handler {
	if r.Header.Get("Upgrade") == "" {
		return next
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		o.tunnels.enter()
		defer o.tunnels.leave()
		next.ServeHTTP(rw, r)
	})
}

// isService says whether a host is the name of a service: a bare name, which can
// be nothing else. Whether there is such a service is asked later, so that a
// slip gets an error that names the nearest one.
func (o *outbound) isService(host string) bool {
	host = strings.ToLower(host)
	if host == "" || host == "localhost" {
		return false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	return !strings.ContainsAny(host, ".:")
}

// fail answers for a service, or another host, that was not reached.
func (o *outbound) fail(rw http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
	status, text := o.explain(err)
	answer(rw, r, status, text)
}

// explain is the status and the sentence for the local program. It may know the
// reason: the failure is its own side's.
func (o *outbound) explain(err error) (status int, text string) {
	var unknown *kith.UnknownServiceError
	var none *kith.NoEndpointError
	var identity *kith.IdentityError
	var network net.Error
	switch {
	case errors.As(err, &unknown):
		return http.StatusBadGateway, unknown.Error() + " (kith services lists them)"
	case errors.As(err, &none):
		return http.StatusServiceUnavailable, none.Error() + " (kith run --as " + none.Service + " --expose … starts one)"
	case errors.As(err, &identity):
		o.p.log.Error("peer is not who it should be", "service", identity.Service, "address", identity.Address, "spiffe_id", identity.Got.String())
		return http.StatusBadGateway, identity.Error()
	case errors.As(err, &network) && network.Timeout():
		return http.StatusGatewayTimeout, err.Error()
	}
	o.p.log.Warn("call failed", "error", err)
	return http.StatusBadGateway, err.Error()
}

// before is the way out that programs had before our variables were set.
type before struct {
	proxy func(*url.URL) (*url.URL, error)
}

// proxyOf is an http.Transport.Proxy.
func (b *before) proxyOf(r *http.Request) (*url.URL, error) { return b.proxy(r.URL) }
