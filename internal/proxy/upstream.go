package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// maxTunnels bounds the connections of one local port.
const maxTunnels = 4096

// upstream is one local port that leads to one service.
type upstream struct {
	p        *Proxy
	u        Upstream
	listener net.Listener
}

func newUpstream(p *Proxy, u Upstream) (*upstream, error) {
	l, err := listen("upstream "+u.Service, u.Listen)
	if err != nil {
		return nil, err
	}
	return &upstream{p: p, u: u, listener: newGate(l, p.cfg.AllowUIDs, p.log)}, nil
}

func (up *upstream) serve(ctx, work context.Context) error {
	return up.p.serveLocal(ctx, up.listener, maxTunnels, func(conn net.Conn) { up.relay(work, conn) })
}

// serveLocal handles a local listener's connections until ctx ends, and returns
// when those under way have ended too.
func (p *Proxy) serveLocal(ctx context.Context, l net.Listener, most int, handle func(net.Conn)) error {
	var running sync.WaitGroup
	defer running.Wait()
	a := acceptor{l: l, most: most, log: p.log, running: &running}
	return a.accept(ctx, handle)
}

func (up *upstream) relay(work context.Context, conn net.Conn) {
	defer conn.Close()
	up.p.meter.accepted("outbound")
	back, err := up.p.cfg.Workload.Dial(work, up.u.Service)
	if err != nil {
		up.p.meter.decided("outbound", "tcp", outcomeError)
		up.p.log.Warn("service not reached", "service", up.u.Service, "error", err)
		abort(conn)
		return
	}
	up.p.meter.decided("outbound", "tcp", outcomeAllowed)
	up.p.meter.enter("outbound")
	defer up.p.meter.leave("outbound")
	relay(work, up.p.meter.buffers, conn, back)
}

// acceptor takes the connections of a local listener.
type acceptor struct {
	l       net.Listener
	most    int // at once
	log     *slog.Logger
	running *sync.WaitGroup // of those that are handled
}

// accept hands connections to handle, each in a goroutine, until ctx ends, which
// closes the listener and is no error, or somebody else has closed it.
func (a *acceptor) accept(ctx context.Context, handle func(net.Conn)) error {
	stop := context.AfterFunc(ctx, func() { a.l.Close() })
	defer stop()
	slots := make(chan struct{}, a.most)
	var gap time.Duration
	for {
		conn, err := a.l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// As with no file descriptors left: wait, longer each time.
			gap = min(max(2*gap, 5*time.Millisecond), time.Second)
			a.log.Warn("accept", "address", a.l.Addr().String(), "error", err)
			pause(ctx, gap)
			continue
		}
		gap = 0
		select {
		case slots <- struct{}{}:
			a.running.Go(func() {
				defer func() { <-slots }()
				handle(conn)
			})
		default:
			abort(conn)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
