package proxy

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
)

// refusedHead is what net/http gets to read in place of a head we refuse. It
// answers 400 and closes, in its turn among the pipelined answers, which we
// could not do from below.
const refusedHead = "REFUSED\r\n\r\n"

// strictConn reads HTTP/1 for net/http and shows it only heads that have one
// reading. It follows the messages: head, then a body of known length, or of
// chunks, which it counts as well, so that nothing hides behind their end.
type strictConn struct {
	*tls.Conn

	mu       sync.Mutex
	phase    phase
	pending  []byte // bytes read and not yet delivered; guarded by mu
	held     int    // how many of pending may be delivered; guarded by mu
	body     int64  // bytes of body, or chunk, still to pass; guarded by mu
	chunked  bool   // body is a chunk, and more come after it; guarded by mu
	trailers int    // bytes of trailers so far; guarded by mu
	scanned  int    // bytes of pending in which no end of head was found; guarded by mu
	head     head   // the latest; guarded by mu
	space    []byte // where heads are read into; owned by the reading goroutine
}

const headSpace = 4 << 10

type phase int

const (
	inHead     phase = iota // collecting a head
	inBody                  // passing a body of known length, or a chunk
	firstChunk              // collecting the size of the first chunk
	nextChunk               // collecting the end of a chunk and the size of the next
	inTrailers              // collecting lines up to the empty one
	open                    // hijacked, or a head too long: passing everything
	refused                 // what is held, and then the end
)

// strictly wraps a connection that did not agree on HTTP/2, whose frames
// net/http checks by itself, with what was read of it.
func strictly(conn *tls.Conn, read []byte) net.Conn { return &strictConn{Conn: conn, pending: read} }

// NetConn leads to the TLS connection, for who wants to know the peer.
func (c *strictConn) NetConn() net.Conn { return c.Conn }

// watchState is the http.Server.ConnState that tells a strictConn where the
// server is.
func watchState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*strictConn)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if state == http.StateHijacked && c.phase != refused {
		c.phase, c.held = open, len(c.pending)
	}
}

// Read delivers checked heads, and bodies as they are.
func (c *strictConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		c.mu.Lock()
		if n := c.deliverLocked(p); n > 0 {
			c.mu.Unlock()
			return n, nil
		}
		direct, end := c.phase == open, c.phase == refused
		if c.phase == inBody {
			p = p[:min(int64(len(p)), c.body)]
			direct = true
		}
		c.mu.Unlock()
		if end {
			return 0, io.EOF
		}
		if direct {
			n, err := c.Conn.Read(p)
			c.passed(n)
			return n, err
		}
		if n, err := c.fill(); n == 0 && err != nil {
			return 0, err
		}
	}
}

// fill reads more of a head. Only the reading goroutine changes pending, so it
// may read into its free end without the lock.
func (c *strictConn) fill() (int, error) {
	if c.space == nil {
		c.space = make([]byte, 0, headSpace)
	}
	tail := c.space[:0]
	if len(c.pending) > 0 {
		tail = slices.Grow(c.pending, headSpace/2)
	}
	n, err := c.Conn.Read(tail[len(tail):cap(tail)])
	c.mu.Lock()
	c.pending = tail[:len(tail)+n]
	c.mu.Unlock()
	return n, err
}

// passed counts body bytes that went by without being held.
func (c *strictConn) passed(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != inBody {
		return
	}
	c.passedLocked(int64(n))
}

func (c *strictConn) passedLocked(n int64) {
	if c.body -= n; c.body > 0 {
		return
	}
	if c.phase = inHead; c.chunked {
		c.phase = nextChunk
	}
}

// deliverLocked copies what may be delivered now.
func (c *strictConn) deliverLocked(p []byte) int {
	if c.held == 0 {
		c.advanceLocked()
	}
	n := copy(p, c.pending[:c.held])
	c.held -= n
	if c.pending = c.pending[n:]; len(c.pending) == 0 {
		c.pending = nil
	}
	return n
}

// advanceLocked finds out how many pending bytes belong to the present phase.
func (c *strictConn) advanceLocked() {
	if len(c.pending) == 0 {
		return
	}
	switch c.phase {
	case inBody:
		c.held = int(min(int64(len(c.pending)), c.body))
		c.passedLocked(int64(c.held))
	case open, refused:
		c.held = len(c.pending)
	case firstChunk, nextChunk:
		c.chunkLocked()
	case inTrailers:
		c.trailerLocked()
	case inHead:
		c.headLocked()
	}
}

// chunkLocked delivers the line before a chunk once it is complete.
func (c *strictConn) chunkLocked() {
	n, size, err := readChunk(c.pending, c.phase == firstChunk)
	switch {
	case err != nil:
		c.refuseLocked()
	case n == 0: // more is needed
	case size == 0:
		c.held, c.phase, c.trailers = n, inTrailers, 0
	default:
		c.held, c.phase, c.body = n, inBody, size
	}
}

// trailerLocked delivers one line behind the last chunk.
func (c *strictConn) trailerLocked() {
	n, last, err := readTrailer(c.pending)
	if c.trailers += n; err != nil || c.trailers > maxHead {
		c.refuseLocked()
		return
	}
	if c.held = n; last {
		c.phase, c.chunked = inHead, false
	}
}

var endOfHead = [2][]byte{[]byte("\r\n\r\n"), []byte("\n\n")}

// headLocked delivers a head once it is complete, or once it is so long, or so
// plainly wrong, that net/http will refuse it.
func (c *strictConn) headLocked() {
	// RFC 9112 2.2: a server should ignore an empty line before the request.
	for bytes.HasPrefix(c.pending, []byte("\r\n")) {
		c.pending = c.pending[2:]
	}
	from := max(0, c.scanned-3)
	end := bytes.Index(c.pending[min(from, len(c.pending)):], endOfHead[0])
	if bare := bytes.Index(c.pending[min(from, len(c.pending)):], endOfHead[1]); bare >= 0 && (end < 0 || bare < end) {
		c.refuseLocked()
		return
	}
	if end < 0 {
		if c.scanned = len(c.pending); c.scanned > maxHead+4096 {
			c.phase, c.held = open, len(c.pending) // net/http answers 431
		}
		return
	}
	end += from + len(endOfHead[0])
	c.scanned = 0
	if c.head.read(c.pending[:end]) != nil {
		c.refuseLocked()
		return
	}
	c.held = end
	switch {
	case c.head.chunked:
		c.phase, c.chunked = firstChunk, true
	case c.head.length > 0:
		c.phase, c.body = inBody, c.head.length
	}
}

// refuseLocked ends what net/http gets to read with something that is neither a
// head nor a chunk.
func (c *strictConn) refuseLocked() {
	c.pending = []byte(refusedHead)
	c.phase, c.held = refused, len(c.pending)
}
