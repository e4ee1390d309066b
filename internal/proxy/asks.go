package proxy

import (
	"context"
	"net"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxAsks     = 256 // connections at once
	askDialTime = 10 * time.Second
)

// Asks is a local port where a program that cannot dial unix sockets asks the
// agent for decisions, as the service that this proxy is.
type Asks struct {
	Listen string // loopback host:port; "" for none
	Socket string // the agent's, for questions over HTTP
}

// ParseAsks reads [host:]port, as ParseUpstream does.
func ParseAsks(text, socket string) (Asks, error) {
	up, err := ParseUpstream("decisions=" + text)
	if err != nil {
		return Asks{}, fault.Hint(fault.Invalidf("--decisions %q is no local port", text), "as in --decisions 127.0.0.1:8181")
	}
	return Asks{Listen: up.Listen, Socket: socket}, nil
}

// asks is that port. Only our own user gets in: what is asked here is asked as
// this service.
type asks struct {
	p        *Proxy
	listener net.Listener
}

func newAsks(p *Proxy) (*asks, error) {
	l, err := listen("decisions", p.cfg.Asks.Listen)
	if err != nil {
		return nil, err
	}
	return &asks{p: p, listener: newGate(l, p.cfg.AllowUIDs, p.log)}, nil
}

func (s *asks) serve(ctx, work context.Context) error {
	return s.p.serveLocal(ctx, s.listener, maxAsks, func(conn net.Conn) { s.relay(work, conn) })
}

// relay brings bytes to the agent, who sees this process and answers as to it.
func (s *asks) relay(work context.Context, conn net.Conn) {
	defer conn.Close()
	dial, cancel := context.WithTimeout(work, askDialTime)
	defer cancel()
	agent, err := (&net.Dialer{}).DialContext(dial, "unix", s.p.cfg.Asks.Socket)
	if err != nil {
		s.p.log.Warn("agent not asked for decisions", "socket", s.p.cfg.Asks.Socket, "error", err)
		abort(conn)
		return
	}
	relay(work, s.p.meter.buffers, conn, agent)
}

// AsksAddr is the address where decisions are asked for, "" if there is none.
func (p *Proxy) AsksAddr() string {
	if p.asks == nil {
		return ""
	}
	return p.asks.listener.Addr().String()
}
