package api

import (
	"net"
	"sync"

	"github.com/kith-id/kith/spiffe"
)

// connectionsEach is how many connections one identity may hold: an agent has
// one, and a few while it changes. A workload's SVID gets as far as the refusal
// of each call, and must not take the descriptors of everybody on the way.
const connectionsEach = 256

// seats counts connections by identity.
type seats struct {
	mu    sync.Mutex
	taken map[spiffe.ID]int // guarded by mu
}

// take gives the identity one seat more, unless it has all it may have.
func (s *seats) take(id spiffe.ID) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken[id] >= connectionsEach {
		return nil, false
	}
	if s.taken == nil {
		s.taken = make(map[spiffe.ID]int)
	}
	s.taken[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.taken[id]--; s.taken[id] <= 0 {
			delete(s.taken, id)
		}
	}, true
}

// seatedConn gives its seat back when it is closed.
type seatedConn struct {
	net.Conn

	mu     sync.Mutex
	leave  func() // guarded by mu, nil before there is a seat and after it was left
	closed bool   // guarded by mu
}

// sit is called once, with what take gave.
func (c *seatedConn) sit(leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		leave()
		return
	}
	c.leave = leave
}

// Close closes the connection.
func (c *seatedConn) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.leave != nil {
		c.leave()
		c.leave = nil
	}
	c.mu.Unlock()
	return c.Conn.Close()
}
