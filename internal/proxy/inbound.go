package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/kith-id/kith"
)

const appDialTimeout = 5 * time.Second

// inbound is one exposure: a mutual TLS listener before one application.
type inbound struct {
	p        *Proxy
	e        Exposure
	listener net.Listener
	app      *app
	lane     *inLane
	queue    *handover    // to net/http
	proven   http.Handler // of what comes through load balancers; nil for mutual TLS
}

func newInbound(p *Proxy, e Exposure) (*inbound, error) {
	host, port, err := net.SplitHostPort(e.Listen)
	if err != nil {
		return nil, err
	}
	if host == "" && p.cfg.Workload.Dev() {
		host = "127.0.0.1"
	}
	l, err := listen("expose "+e.String(), net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	in := &inbound{p: p, e: e, listener: l, app: newApp(p, e), queue: newHandover(l.Addr())}
	in.lane = &inLane{in: in, pool: newPool[struct{}](appIdle, p.meter.sheets)}
	return in, nil
}

// serve accepts until ctx ends and then drains; what is still under way when
// work ends is cut. The protocol is the service's of the moment: a change of it
// holds from the next connection.
func (in *inbound) serve(ctx, work context.Context) error {
	secure := in.secure()
	server, lines := in.server(work), newLines(in.lane, in.p.meter, "inbound")
	var running sync.WaitGroup
	running.Go(func() { server.Serve(in.queue) }) //nolint:errcheck // it ends by Shutdown only

	stop := context.AfterFunc(ctx, func() { secure.Close() })
	defer stop()
	defer secure.Close()
	for {
		conn, err := secure.Accept()
		if err != nil {
			break
		}
		in.p.meter.accepted("inbound")
		if in.proven != nil {
			running.Go(func() { in.serveProven(conn.(*tls.Conn)) })
			continue
		}
		if in.p.cfg.Workload.Protocol() == kith.TCP {
			running.Go(func() { in.serveTCP(work, conn.(*tls.Conn)) })
			continue
		}
		running.Go(func() { in.serveHTTP(work, lines, conn.(*tls.Conn)) })
	}
	running.Go(func() { lines.drain(work) })
	cut := context.AfterFunc(work, func() { server.Close() })
	defer cut()
	err := server.Shutdown(work)
	in.app.hijacked.wait(work)
	running.Wait()
	if ctx.Err() == nil {
		return errors.New("listener " + in.listener.Addr().String() + " ended by itself")
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

func (in *inbound) server(work context.Context) *http.Server {
	w := in.p.cfg.Workload
	handler := in.proven
	if handler == nil {
		handler = w.Handler(in.app, in.e.Port)
	}
	server := w.Server(handler)
	server.Handler = in.p.meter.tally("inbound").measure(server.Handler)
	server.ConnState = watchState
	server.BaseContext = func(net.Listener) context.Context { return work } // so that a cut reaches hijacked connections
	return server
}

// serveHTTP serves a connection itself if it speaks HTTP/1.1, and gives one that
// speaks HTTP/2 to net/http.
func (in *inbound) serveHTTP(work context.Context, lines *lines, conn *tls.Conn) {
	if conn.ConnectionState().NegotiatedProtocol == "h2" {
		in.queue.put(conn)
		return
	}
	facts, err := in.lane.facts(conn)
	if err != nil {
		conn.Close()
		return
	}
	lines.serve(work, conn, facts)
}

// serveTCP decides once, connects to the application and copies; a change of
// policy that denies the connection resets it.
func (in *inbound) serveTCP(work context.Context, conn *tls.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(work)
	defer cancel()
	peer, err := in.p.cfg.Workload.PeerOn(conn)
	if err != nil {
		return
	}
	d, release := in.p.cfg.Workload.Hold(peer, kith.Request{Protocol: kith.TCP, Port: in.e.Port}, func(kith.Decision) { cancel() })
	defer release()
	if !d.Allowed {
		in.p.meter.decided("inbound", "tcp", outcomeDenied)
		in.p.log.Info("connection denied", "from", peer.ID().String(), "reason", d.Reason, "decision", d.ID)
		return
	}
	dialer := net.Dialer{Timeout: appDialTimeout}
	back, err := dialer.DialContext(ctx, in.e.Network, in.e.Target)
	if err != nil {
		in.p.meter.decided("inbound", "tcp", outcomeError)
		in.p.log.Warn("application not reached", "application", in.e.Target, "error", err)
		abort(conn)
		return
	}
	in.p.meter.decided("inbound", "tcp", outcomeAllowed)
	in.p.meter.enter("inbound")
	defer in.p.meter.leave("inbound")
	relay(ctx, in.p.meter.buffers, conn, back)
}

// handover is a net.Listener fed with connections that were accepted, and
// authenticated, elsewhere.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) put(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		conn.Close()
	}
}

// Accept returns the next connection handed over.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close ends the handing over.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr is the address of the listener the connections come from.
func (h *handover) Addr() net.Addr { return h.addr }
