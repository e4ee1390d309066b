package proxy

import (
	"log/slog"
	"net"
	"os"
	"slices"

	"github.com/kith-id/kith/internal/loopback"
)

// gate is a loopback listener that lets in only connections of our own user,
// root, and who else is allowed: whoever uses it acts under our identity.
// Programs of the same user are no boundary, here or anywhere on Unix.
type gate struct {
	net.Listener

	allowed []uint32
	log     *slog.Logger
}

func newGate(l net.Listener, also []uint32, log *slog.Logger) net.Listener {
	allowed := append([]uint32{0, uint32(os.Getuid())}, also...)
	return &gate{Listener: l, allowed: allowed, log: log}
}

// Accept returns the next connection of an allowed user.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		owner, err := loopback.Owner(conn)
		switch {
		case err != nil:
			g.log.Warn("local connection refused: whose it is could not be found out", "error", err)
		case slices.Contains(g.allowed, owner.UID):
			return conn, nil
		default:
			g.log.Warn("local connection refused: another user's", "uid", owner.UID, "hint", "each user runs an own kith run")
		}
		abort(conn)
	}
}
