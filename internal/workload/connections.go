package workload

import (
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
)

// defaultConnections is how many connections one user may hold open: each costs
// the agent two descriptors, of which it has a limited number for everybody.
const defaultConnections = 1024

// LimitConnections wraps the credentials of a local socket: they close the
// connections that one user has too many of. 0 is 1024. refused, unless it is nil, is
// told why a connection was closed, on any goroutine: its caller sees no more than
// that it was.
func LimitConnections(inner credentials.TransportCredentials, each int, refused func(error)) credentials.TransportCredentials {
	if each <= 0 {
		each = defaultConnections
	}
	if refused == nil {
		refused = func(error) {}
	}
	return &limited{TransportCredentials: inner, each: each, refused: refused, open: &perUser{of: make(map[uint32]int)}}
}

type limited struct {
	credentials.TransportCredentials

	each    int
	refused func(error)
	open    *perUser // shared by clones
}

type perUser struct {
	mu sync.Mutex
	of map[uint32]int // guarded by mu
}

// ServerHandshake closes the connection when its user has enough of them.
func (l *limited) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := l.TransportCredentials.ServerHandshake(raw)
	if err == nil {
		conn, info, err = l.admit(conn, info)
	}
	if err != nil {
		l.refused(err)
		return nil, nil, err
	}
	return conn, info, nil
}

// admit counts a connection. It is apart, as what is called above has little stack
// left.
func (l *limited) admit(conn net.Conn, info credentials.AuthInfo) (net.Conn, credentials.AuthInfo, error) {
	local, ok := info.(attest.Peered)
	if !ok {
		conn.Close()
		return nil, nil, fmt.Errorf("caller is not a local process")
	}
	uid := local.Peer().UID
	if !l.open.enter(uid, l.each) {
		conn.Close()
		full := fault.Deniedf("user %d has %d connections open, which is the limit", uid, l.each)
		return nil, nil, fault.Hint(full, "ss -xp shows which programs hold them")
	}
	return &countedConn{Conn: conn, gone: func() { l.open.leave(uid) }}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (l *limited) Clone() credentials.TransportCredentials {
	clone := *l
	clone.TransportCredentials = l.TransportCredentials.Clone()
	return &clone
}

func (p *perUser) enter(uid uint32, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[uid] >= limit {
		return false
	}
	p.of[uid]++
	return true
}

func (p *perUser) leave(uid uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of[uid]--; p.of[uid] <= 0 {
		delete(p.of, uid)
	}
}

// countedConn frees its place when it is closed.
type countedConn struct {
	net.Conn

	once sync.Once
	gone func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.once.Do(c.gone)
	return c.Conn.Close()
}
