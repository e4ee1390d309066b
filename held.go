package kith

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// unaryGrace is how long a gRPC call that is denied in flight, and whose shape
// still fits a unary one with its end under way, may take to end.
const unaryGrace = 250 * time.Millisecond

// resetGrace is how long a cut handler has to return before its stream is reset.
const resetGrace = 2 * time.Second

// errCut is what a handler sees of an exchange that was cut.
var errCut = errors.New("denied by a change of policy")

// lives says whether a request may outlive one decision: upgrades, event
// streams and everything gRPC, whose calls look alike at the start.
func lives(r *http.Request, request Request) bool {
	return request.GRPC || field(r.Header, "Upgrade") != "" || strings.Contains(field(r.Header, "Accept"), "text/event-stream")
}

// unescaped decodes a normal path, whose escapes are known to be well formed.
func unescaped(path string) string {
	decoded, err := url.PathUnescape(path)
	if err != nil {
		return path
	}
	return decoded
}

// held is one exchange that is decided again while it lives. It stands between
// the handler and the connection: it counts gRPC messages, so that a unary call
// once begun finishes while a stream is cut, and ends the exchange in the
// protocol's own words.
type held struct {
	http.ResponseWriter

	r      *http.Request
	grpc   bool
	cancel context.CancelFunc

	mu       sync.Mutex
	up, down messages  // guarded by mu
	denied   *Decision // set by the change that denied it; guarded by mu
	isCut    bool      // guarded by mu
	conn     net.Conn  // after Hijack; guarded by mu
	ended    bool      // guarded by mu
	timers   []*time.Timer
}

// serveHeld serves an exchange that may live long.
func (w *Workload) serveHeld(rw http.ResponseWriter, r *http.Request, next http.Handler, peer *Peer, request Request, own *check) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	h := &held{ResponseWriter: rw, grpc: isGRPC(r), cancel: cancel}
	request.Headers = r.Header.Clone() // the handler may change its own while we decide again
	d, release := w.hold(ctx, peer, request, own, h.deny)
	defer release()
	if !d.Allowed {
		Deny(rw, r, d)
		return
	}
	out := admitted(ctx, r, peer, d)
	h.r = out
	if out.Body != nil && out.Body != http.NoBody {
		out.Body = &heldRequestBody{ReadCloser: out.Body, h: h}
	}
	defer h.finish()
	next.ServeHTTP(h, out)
}

// deny is called by the change of policy that denies the exchange.
func (h *held) deny(d Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended || h.isCut {
		return
	}
	h.denied = &d
	switch {
	case !h.grpc || h.up.streams() || h.down.streams():
		h.cutLocked()
	case h.up.whole() && !h.up.ended || h.down.whole():
		// One message and no end of stream: a stream at rest, or a unary call
		// between its message and its end, which is microseconds.
		h.timers = append(h.timers, time.AfterFunc(unaryGrace, h.cutLater))
	}
	// Otherwise it may be unary: it is cut if a second message shows up.
}

func (h *held) cutLater() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.ended && !h.isCut && (h.up.whole() && !h.up.ended || h.down.whole()) {
		h.cutLocked()
	}
}

// cutLocked ends the exchange: the handler's context ends, its reads and writes
// fail, a hijacked connection is closed. finish says why in trailers.
func (h *held) cutLocked() {
	h.isCut = true
	h.cancel()
	if h.conn != nil {
		h.conn.Close()
		return
	}
	rc := http.NewResponseController(h.ResponseWriter)
	rc.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // HTTP/1 without it ends with the handler
	h.timers = append(h.timers, time.AfterFunc(resetGrace, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.ended {
			rc.SetWriteDeadline(time.Unix(1, 0)) //nolint:errcheck // resets an HTTP/2 stream that is stuck
		}
	}))
}

// finish runs when the handler has returned or given up. A cut exchange whose
// connection is not hijacked gets the denial: in the head if nothing was sent,
// else in the trailers.
func (h *held) finish() {
	h.mu.Lock()
	h.ended = true
	for _, timer := range h.timers {
		timer.Stop()
	}
	isCut, denied, hijacked, begun := h.isCut, h.denied, h.conn != nil, h.down.begun
	h.mu.Unlock()
	if !isCut || hijacked {
		return
	}
	if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
		panic(p)
	}
	switch {
	case !begun:
		clear(h.Header())
		Deny(h.ResponseWriter, h.r, *denied)
	case h.grpc:
		code, message := denialStatus(*denied)
		for name := range h.Header() {
			if strings.HasPrefix(name, http.TrailerPrefix) {
				h.Header().Del(name)
			}
		}
		h.Header().Set(http.TrailerPrefix+"Grpc-Status", code)
		h.Header().Set(http.TrailerPrefix+"Grpc-Message", message)
		h.Header().Set(http.TrailerPrefix+DecisionHeader, denied.ID)
	default:
		panic(http.ErrAbortHandler) // the only way to tell an HTTP/1 client that this is not the end it wanted
	}
}

// count moves a direction on and says whether the bytes may pass.
func (h *held) count(direction *messages, p []byte) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.isCut {
		return false
	}
	if !h.grpc {
		return true
	}
	direction.advance(p)
	if h.denied != nil && direction.streams() {
		h.cutLocked()
		return false
	}
	return true
}

// WriteHeader sends the head unless the exchange is cut.
func (h *held) WriteHeader(code int) {
	h.mu.Lock()
	isCut := h.isCut
	if !isCut && (code >= 200 || code == http.StatusSwitchingProtocols) {
		h.down.begun = true
	}
	h.mu.Unlock()
	if !isCut {
		h.ResponseWriter.WriteHeader(code)
	}
}

// Write sends a part of the response unless the exchange is cut.
func (h *held) Write(p []byte) (int, error) {
	if !h.count(&h.down, p) {
		return 0, errCut
	}
	h.mu.Lock()
	h.down.begun = true
	h.mu.Unlock()
	return h.ResponseWriter.Write(p)
}

// Flush sends what is buffered.
func (h *held) Flush() { h.FlushError() } //nolint:errcheck // http.Flusher has no error

// FlushError sends what is buffered and says what went wrong.
func (h *held) FlushError() error {
	h.mu.Lock()
	if h.isCut {
		h.mu.Unlock()
		return errCut
	}
	h.down.begun = true
	h.mu.Unlock()
	return http.NewResponseController(h.ResponseWriter).Flush()
}

// Hijack hands the connection over; a cut closes it from then on.
func (h *held) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return conn, rw, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conn = conn
	if h.isCut {
		conn.Close()
		return nil, nil, errCut
	}
	return conn, rw, nil
}

// Unwrap lets a ResponseController find deadlines and full duplex.
func (h *held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

type heldRequestBody struct {
	io.ReadCloser

	h *held
}

// Read reads the request unless the exchange is cut.
func (b *heldRequestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if !b.h.count(&b.h.up, p[:n]) {
		return 0, errCut
	}
	if err != nil {
		b.h.mu.Lock()
		b.h.up.ended = true
		b.h.mu.Unlock()
	}
	return n, err
}

// messages counts gRPC messages in one direction: a flag byte, four bytes of
// length, the message.
type messages struct {
	begun   bool // the head was sent
	started int  // messages whose first byte has passed
	head    [5]byte
	have    int    // bytes of head
	left    uint64 // bytes of the message under way
	ended   bool   // the direction was closed by its sender
}

func (m *messages) advance(p []byte) {
	for len(p) > 0 {
		if m.left > 0 {
			n := min(uint64(len(p)), m.left)
			m.left -= n
			p = p[n:]
			continue
		}
		if m.have == 0 {
			m.started++
		}
		n := copy(m.head[m.have:], p)
		m.have += n
		p = p[n:]
		if m.have == len(m.head) {
			m.have = 0
			m.left = uint64(m.head[1])<<24 | uint64(m.head[2])<<16 | uint64(m.head[3])<<8 | uint64(m.head[4])
		}
	}
}

// streams is true once a second message has begun: no unary call does that.
func (m *messages) streams() bool { return m.started > 1 }

// whole is true between messages.
func (m *messages) whole() bool { return m.started > 0 && m.left == 0 && m.have == 0 }
