package federation

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// bound lets so many connections be open at a time; the others wait. Of them
// ofOne, unless it is 0, may be one caller's: more of his are closed at once, so
// that he keeps nobody else waiting.
func bound(l net.Listener, limit, ofOne int) net.Listener {
	return &boundListener{
		Listener: l, ofOne: ofOne, open: make(map[netip.Prefix]int),
		slots: make(chan struct{}, limit), closed: make(chan struct{}),
	}
}

type boundListener struct {
	net.Listener

	ofOne  int
	slots  chan struct{}
	ended  atomic.Bool
	closed chan struct{}

	mu   sync.Mutex
	open map[netip.Prefix]int // guarded by mu; connections of each caller
}

// Accept waits for a slot and then for a connection.
func (b *boundListener) Accept() (net.Conn, error) {
	select {
	case b.slots <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			<-b.slots
			return nil, err
		}
		of := callerOf(conn)
		if b.enter(of) {
			return &boundConn{Conn: conn, of: of, bound: b}, nil
		}
		conn.Close()
	}
}

// enter counts a connection, unless it is one too many of its caller's.
func (b *boundListener) enter(of netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ofOne > 0 && b.open[of] >= b.ofOne {
		return false
	}
	b.open[of]++
	return true
}

func (b *boundListener) leave(of netip.Prefix) {
	b.mu.Lock()
	if b.open[of]--; b.open[of] <= 0 {
		delete(b.open, of)
	}
	b.mu.Unlock()
	<-b.slots
}

// callerOf is who connects: an address, or of IPv6 the network of one host.
func callerOf(conn net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	address, bits := at.Addr().Unmap().WithZone(""), 32
	if address.Is6() {
		bits = 64
	}
	of, _ := address.Prefix(bits) // the bits are those of its family
	return of
}

// Close ends Accept, one that waits for a slot as well.
func (b *boundListener) Close() error {
	if b.ended.CompareAndSwap(false, true) {
		close(b.closed)
	}
	return b.Listener.Close()
}

type boundConn struct {
	net.Conn

	ended atomic.Bool
	of    netip.Prefix
	bound *boundListener
}

// Close frees the slot, once.
func (c *boundConn) Close() error {
	if c.ended.CompareAndSwap(false, true) {
		c.bound.leave(c.of)
	}
	return c.Conn.Close()
}
