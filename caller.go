package kith

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/peer"

	"github.com/kith-id/kith/spiffe"
)

type peerKey struct{}

// Caller is who sent a request and why it was let through.
type Caller struct {
	Peer     *Peer
	Decision Decision
}

type callerKey struct{}

// callerContext is a context that knows its Caller: one allocation a request,
// where context.WithValue makes two.
type callerContext struct {
	context.Context

	caller Caller
}

func withCaller(ctx context.Context, caller Caller) context.Context {
	return &callerContext{Context: ctx, caller: caller}
}

// Value is the caller under its key, else what the context above has.
func (c *callerContext) Value(key any) any {
	if key == (callerKey{}) {
		return &c.caller
	}
	return c.Context.Value(key)
}

// CallerOf is the caller of the request whose context this is. It is set for
// handlers behind [Workload.Serve], [Workload.Handler] and the interceptors of
// gRPC.
func CallerOf(ctx context.Context) (Caller, bool) {
	if caller, ok := ctx.Value(callerKey{}).(*Caller); ok {
		return *caller, true
	}
	return Caller{}, false
}

// Identity is the proven identity of who sent the request whose context this is,
// in handlers of HTTP and of gRPC alike. It says who asks, not that they may:
// that was decided before the handler was called, and [CallerOf] says how.
func Identity(ctx context.Context) (id spiffe.ID, ok bool) {
	if caller, ok := CallerOf(ctx); ok && caller.Peer != nil {
		return caller.Peer.id, true
	}
	if from := peerIn(ctx); from != nil {
		return from.id, true
	}
	return spiffe.ID{}, false
}

// peerIn is who is at the other end of the connection of a request, nil if that
// was not proved to this package.
func peerIn(ctx context.Context) *Peer {
	if from, ok := onConnection(ctx); ok {
		return from
	}
	if from, ok := peer.FromContext(ctx); ok {
		if info, ok := from.AuthInfo.(*AuthInfo); ok {
			return info.Peer
		}
	}
	return nil
}

// onConnection is the caller that ConnContext has resolved, nil where there is one
// to resolve and it has proved nothing.
func onConnection(ctx context.Context) (from *Peer, ok bool) {
	switch from := ctx.Value(peerKey{}).(type) {
	case *Peer:
		return from, true
	case *late:
		return from.get(), true
	default:
		return nil, false
	}
}

// late is the caller on a connection of another listener than this package's, which
// shakes hands with its first request only.
type late struct {
	w    *Workload
	conn *tls.Conn
	peer atomic.Pointer[Peer]
}

// get is for requests: the handshake is done.
func (l *late) get() *Peer {
	if from := l.peer.Load(); from != nil {
		return from
	}
	from, err := l.w.PeerOn(l.conn)
	if err != nil {
		return nil
	}
	l.peer.CompareAndSwap(nil, from) // of requests side by side all have the same
	return l.peer.Load()
}

// secureKey is where the name is that a connection asked TLS for: it is there if the
// connection is TLS at all.
type secureKey struct{}

// ConnContext goes into [net/http.Server.ConnContext] of a server that serves
// connections of a [Workload.Listener]: it resolves the caller once per
// connection; with another listener's, which still have to shake hands, at the first
// request. A connection wrapped by the server's owner must have a method
// NetConn that leads to the *tls.Conn.
func (w *Workload) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	for conn != nil {
		if secure, ok := conn.(*tls.Conn); ok {
			state := secure.ConnectionState()
			ctx = context.WithValue(ctx, secureKey{}, state.ServerName)
			if !state.HandshakeComplete {
				return context.WithValue(ctx, peerKey{}, &late{w: w, conn: secure})
			}
			peer, err := w.PeerOn(secure)
			if err != nil {
				return ctx
			}
			return context.WithValue(ctx, peerKey{}, peer)
		}
		wrapped, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return ctx
		}
		conn = wrapped.NetConn()
	}
	return ctx
}
