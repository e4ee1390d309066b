package proxy

import (
	"context"
	"errors"
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
	stop := context.AfterFunc(ctx, func() { up.listener.Close() })
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, maxTunnels)
	var gap time.Duration
	for {
		conn, err := up.listener.Accept()
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
			up.p.log.Warn("accept", "upstream", up.u.Service, "error", err)
			pause(ctx, gap)
			continue
		}
		gap = 0
		select {
		case slots <- struct{}{}:
			running.Go(func() {
				defer func() { <-slots }()
				up.relay(work, conn)
			})
		default:
			abort(conn)
		}
	}
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

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
