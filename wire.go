package kith

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
)

// wireSpace holds four of TLS's largest records: header, 16 KiB, tag and type.
const wireSpace = 4 * (5 + 16<<10 + 17)

// wire is the connection under TLS. crypto/tls reads and writes one record at a
// time; a wire asks the kernel for several at once, and can hold records back
// until there are several to send. Space is borrowed while there is something in
// it, so a connection at rest has none.
type wire struct {
	net.Conn

	raw     syscall.RawConn
	receive func(fd uintptr) bool // made once: it is used for each read
	pool    *sync.Pool            // of *[wireSpace]byte

	in       *[wireSpace]byte // what was read and not used: in[r:w]; owned by the reading goroutine
	r, w     int              // likewise
	left     int              // of the record that is being read; likewise
	received int              // what receive got; likewise
	failed   error            // likewise

	mu   sync.Mutex // one write after the other
	held *[wireSpace]byte
	size int // of what is held; guarded by mu
}

// newWire wraps a connection that has a file descriptor; any other stays as it
// is.
func newWire(conn net.Conn, pool *sync.Pool) net.Conn {
	bottom, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := bottom.SyscallConn()
	if err != nil {
		return conn
	}
	w := &wire{Conn: conn, raw: raw, pool: pool}
	w.receive = w.receiveFrom
	return w
}

func newWirePool() *sync.Pool {
	return &sync.Pool{New: func() any { return new([wireSpace]byte) }}
}

// NetConn is the connection underneath.
func (w *wire) NetConn() net.Conn { return w.Conn }

// CloseWrite ends our half.
func (w *wire) CloseWrite() error {
	if half, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read gives what is left of one record and never a byte of the next, so that
// crypto/tls holds nothing back that Ready would have to know of.
func (w *wire) Read(p []byte) (int, error) {
	if w.left == 0 {
		for w.w-w.r < recordHead {
			if err := w.fill(); err != nil {
				if n := copy(p, w.unread()); n > 0 { // less than a header: its reader will say so
					w.r += n
					w.settle()
					return n, nil
				}
				return 0, err
			}
		}
		w.left = recordSize(w.unread())
	}
	if w.r == w.w {
		if err := w.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, w.unread()[:min(w.left, w.w-w.r)])
	w.r += n
	w.left -= n
	w.settle()
	return n, nil
}

const recordHead = 5

// recordSize is the size of a TLS record with its header.
func recordSize(text []byte) int { return recordHead + int(binary.BigEndian.Uint16(text[3:])) }

func (w *wire) unread() []byte {
	if w.in == nil {
		return nil
	}
	return w.in[w.r:w.w]
}

// settle gives the space back when nothing is in it.
func (w *wire) settle() {
	if w.r == w.w && w.in != nil {
		w.pool.Put(w.in)
		w.in, w.r, w.w = nil, 0, 0
	}
}

// Wait returns when there is something to read, or the connection has ended or
// timed out, which Read will say. It needs no space until then.
func (w *wire) Wait() {
	if w.r == w.w && w.failed == nil {
		w.failed = w.fill()
	}
}

// Ready says that a whole record is here: reading it will not block.
func (w *wire) Ready() bool {
	text := w.unread()
	return w.left == 0 && len(text) >= recordHead && len(text) >= recordSize(text)
}

// Buffered is how many bytes have arrived and were not read.
func (w *wire) Buffered() int { return w.w - w.r }

// fill reads more from the kernel.
func (w *wire) fill() error {
	if err := w.failed; err != nil {
		w.failed = nil
		return err
	}
	if w.r > 0 { // a part of a header at most
		w.w = copy(w.in[:], w.in[w.r:w.w])
		w.r = 0
	}
	w.received = 0
	err := w.raw.Read(w.receive)
	if err == nil {
		err = w.failed
		w.failed = nil
	}
	if err == nil && w.received == 0 {
		err = io.EOF
	}
	w.w += w.received
	w.settle()
	return err
}

// receiveFrom reads what is there; it borrows space only if something is.
func (w *wire) receiveFrom(fd uintptr) (done bool) {
	if w.in == nil {
		w.in = w.pool.Get().(*[wireSpace]byte)
	}
	for {
		n, err := syscall.Read(int(fd), w.in[w.w:])
		switch err {
		case nil:
			w.received = n
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			w.settle()
			return false
		default:
			w.fail(err)
			return true
		}
	}
}

// fail is kept apart as it needs stack: net/http reads ahead in a goroutine for each
// request, whose two kilobytes should do.
func (w *wire) fail(err error) {
	w.failed = &net.OpError{Op: "read", Net: w.LocalAddr().Network(), Source: w.LocalAddr(), Addr: w.RemoteAddr(), Err: os.NewSyscallError("read", err)}
}

// Write writes at once, unless what is written is held back.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		return w.Conn.Write(p)
	}
	if w.size+len(p) > wireSpace {
		if err := w.sendLocked(); err != nil {
			return 0, err
		}
	}
	if len(p) > wireSpace {
		return w.Conn.Write(p)
	}
	w.size += copy(w.held[w.size:], p)
	return len(p), nil
}

// Hold keeps what is written from now on back, until Release or until it is much.
func (w *wire) Hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		w.held = w.pool.Get().(*[wireSpace]byte)
	}
}

// Release sends what was held back.
func (w *wire) Release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.sendLocked()
	if w.held != nil {
		w.pool.Put(w.held)
		w.held = nil
	}
	return err
}

func (w *wire) sendLocked() error {
	if w.size == 0 {
		return nil
	}
	_, err := w.Conn.Write(w.held[:w.size])
	w.size = 0
	return err
}
