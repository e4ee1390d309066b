package agent

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/fault"
)

// maxPortConns is how many connections the port has open at once; more wait.
const maxPortConns = 1024

// port is where proxies ask that can ask on no unix socket. It is a port of
// loopback, and the process at the other end is found by the connection it holds, so
// that what holds on the socket holds here: who asks is an enforcement point for the
// services whose identity it has, and nobody else is answered. A nil port is none.
type port struct {
	net.Listener
	who  attest.Dialing
	room chan struct{} // a place for each open connection
}

// listenOnPort opens the port, if there is to be one.
func (a *Agent) listenOnPort() (*port, error) {
	if a.cfg.AuthzListen == "" {
		return nil, nil
	}
	who, ok := a.cfg.Processes.(attest.Dialing)
	if !ok {
		return nil, fault.Invalidf("agent.authz_listen: this system does not say which process asks; use authz.sock")
	}
	l, err := net.Listen("tcp", a.cfg.AuthzListen)
	if err != nil {
		return nil, err
	}
	return &port{Listener: l, who: who, room: make(chan struct{}, maxPortConns)}, nil
}

// Close implements net.Listener.
func (p *port) Close() error {
	if p == nil {
		return nil
	}
	return p.Listener.Close()
}

// Accept gives connections of which it is not known yet whose they are: finding out
// takes a look at many descriptors, for which no other connection should wait.
func (p *port) Accept() (net.Conn, error) {
	p.room <- struct{}{}
	conn, err := p.Listener.Accept()
	if err != nil {
		<-p.room
		return nil, err
	}
	found := &portConn{Conn: conn, leave: sync.OnceFunc(func() { <-p.room })}
	found.caller = sync.OnceValues(func() (attest.Peer, error) {
		peer, err := p.who.Dialer(conn)
		if err == nil { // who it is matters, and is compared; it is held elsewhere
			release(peer)
			peer.PIDFD = nil
		}
		return peer, err
	})
	return found, nil
}

type portConn struct {
	net.Conn
	caller func() (attest.Peer, error)
	leave  func()
}

// Close implements net.Conn.
func (c *portConn) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

type portKey struct{}

// answerOnPort answers on the port until ctx ends.
func (a *Agent) answerOnPort(ctx context.Context, p *port) error {
	if p == nil {
		return nil
	}
	chatter := rate.NewLimiter(1, 5)
	server := a.questionServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if conn, ok := r.Context().Value(portKey{}).(*portConn); ok {
			caller, err := conn.caller()
			if err == nil {
				r = r.WithContext(extauthz.WithCaller(r.Context(), caller))
			} else if chatter.Allow() {
				a.cfg.Log.Warn("question on the port denied: who asks is not known", "remote", r.RemoteAddr, "error", err, "hint", fault.HintOf(err))
			}
		}
		a.questions.ServeHTTP(rw, r) // it denies whom it does not know
	}))
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, portKey{}, conn)
	}
	server.IdleTimeout = time.Minute
	a.cfg.Log.Info("questions answered on a port", "address", p.Addr().String())
	return serveQuestions(ctx, server, p)
}
