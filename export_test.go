package kith

import "context"

// WithPeer is the context of a request on a connection of peer.
func WithPeer(ctx context.Context, peer *Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}
