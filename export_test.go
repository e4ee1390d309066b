package kith

import (
	"context"
	"net"
	"time"
)

// AskAgain asks external decisions about live exchanges as it is done at that time.
func (w *Workload) AskAgain(ctx context.Context, now time.Time) { w.askAgain(ctx, now) }

// WithPeer is the context of a request on a connection of peer.
func WithPeer(ctx context.Context, peer *Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}

// Leavable is a gRPC client's connection, and what makes it take no more calls.
func Leavable(conn net.Conn) (c net.Conn, leave func()) {
	l := &leavable{Conn: conn, gone: func(*leavable) {}}
	return l, l.leave
}
