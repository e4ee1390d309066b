package kith

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// goAway is the frame GOAWAY, NO_ERROR, with the highest stream there is: what
// was begun goes on, and nothing new begins (RFC 9113 6.8).
const goAway = "\x00\x00\x08\x07\x00\x00\x00\x00\x00" + "\x7f\xff\xff\xff" + "\x00\x00\x00\x00"

// leavable is a gRPC client's connection that can be told to take no more calls.
//
// When addresses change, gRPC drains the connections to the old ones by itself;
// but a call that has chosen such a connection in that very moment, while another
// stream is open on it, waits until that stream has ended (grpc-go 1.85,
// http2Client.NewStream). A GOAWAY of the server's is what makes such a call go
// elsewhere, so the connection reads one, in between two frames of the server's.
type leavable struct {
	net.Conn

	gone func(*leavable)

	mu       sync.Mutex
	left     bool      // guarded by mu
	woken    bool      // the reader has seen to it; guarded by mu
	deadline time.Time // that gRPC has set; guarded by mu

	frames frames // only the reader's, as the next
	unread string // rest of our GOAWAY
}

// leave makes the reader read a GOAWAY as soon as no frame is under way.
func (c *leavable) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left {
		return
	}
	c.left = true
	c.Conn.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // of a closed connection, whose reader knows
}

// Read reads what the server sent and, once after leave, a GOAWAY.
func (c *leavable) Read(p []byte) (int, error) {
	for {
		if c.unread == "" && c.frames.between() && c.leaves() {
			c.frames.goAway, c.unread = true, goAway
		}
		if c.unread != "" {
			n := copy(p, c.unread)
			c.unread = c.unread[n:]
			return n, nil
		}
		n, err := c.Conn.Read(p)
		c.frames.advance(p[:n])
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !c.wokenByLeave() {
			return n, err
		}
	}
}

// leaves is true if a GOAWAY is to be read and none was: a second one may not
// name a higher stream.
func (c *leavable) leaves() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.left && !c.frames.goAway
}

// wokenByLeave is true once, and gives gRPC its own deadline back.
func (c *leavable) wokenByLeave() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.left || c.woken {
		return false
	}
	c.woken = true
	return c.Conn.SetReadDeadline(c.deadline) == nil
}

// SetReadDeadline keeps the deadline, which leave takes for itself for a moment.
func (c *leavable) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline is both deadlines.
func (c *leavable) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close closes the connection.
func (c *leavable) Close() error {
	c.gone(c)
	return c.Conn.Close()
}

// frames follows HTTP/2 frames in what is read (RFC 9113 4.1).
type frames struct {
	head   [9]byte // length (3), type, flags, stream (4)
	have   int     // bytes of head
	left   int     // bytes of the frame under way
	goAway bool    // one was read
}

func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

func (f *frames) advance(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(len(p), f.left)
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < len(f.head) {
			continue
		}
		f.have = 0
		f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
		f.goAway = f.goAway || f.head[3] == goAway[3]
	}
}
