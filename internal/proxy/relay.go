package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	relayBuffer = 64 << 10
	sheet       = 16 << 10
	maxRecord   = 16 << 10 // what TLS puts into one record
	// halfOpenSilence is how long one direction may be silent after the other
	// has ended: a peer that never closes its half must not hold two
	// descriptors for ever.
	halfOpenSilence = 5 * time.Minute
)

// buffers is a pool of copy buffers; httputil.ReverseProxy takes it as well.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers {
	return &buffers{pool: sync.Pool{New: func() any { return new([relayBuffer]byte) }}}
}

// Get returns a buffer.
func (b *buffers) Get() []byte { return b.pool.Get().(*[relayBuffer]byte)[:] }

// Put gives a buffer of Get back.
func (b *buffers) Put(buf []byte) { b.pool.Put((*[relayBuffer]byte)(buf)) }

// sheets is a pool of smaller spaces, for heads and short bodies.
type sheets struct{ pool sync.Pool }

func newSheets() *sheets {
	return &sheets{pool: sync.Pool{New: func() any { return new([sheet]byte) }}}
}

// Get returns a sheet.
func (s *sheets) Get() []byte { return s.pool.Get().(*[sheet]byte)[:] }

// Put gives a sheet of Get back; what has grown beyond is left.
func (s *sheets) Put(buf []byte) {
	if len(buf) == sheet {
		s.pool.Put((*[sheet]byte)(buf))
	}
}

// relay copies both ways until both have ended, one has failed, or ctx ends.
// The end of one direction is passed on as a half-close, so that a client that
// says "that was all" still gets its answer. A failure ends both connections
// with a reset: the other side must not take what it has for complete.
func relay(ctx context.Context, pool *buffers, a, b net.Conn) (aToB, bToA int64) {
	stop := context.AfterFunc(ctx, func() { abort(a); abort(b) })
	defer stop()
	var half atomic.Bool
	var running sync.WaitGroup
	running.Go(func() { aToB = pour(pool, b, a, &half) })
	bToA = pour(pool, a, b, &half)
	running.Wait()
	a.Close()
	b.Close()
	return aToB, bToA
}

// pour copies src to dst and then ends dst's direction.
func pour(pool *buffers, dst, src net.Conn, half *atomic.Bool) int64 {
	out := newOutlet(dst)
	below, n, err := peeled(src, out)
	if err != nil {
		abort(dst)
		abort(src)
		return n
	}
	in := newIntake(below, pool)
	for {
		if half.Load() {
			src.SetReadDeadline(time.Now().Add(halfOpenSilence)) //nolint:errcheck // a closed connection shows in the read
		}
		piece, err := in.next()
		if len(piece) > 0 {
			n += int64(len(piece))
			if _, failed := out.Write(piece); failed != nil {
				err = failed
			}
		}
		in.done()
		if err == io.EOF {
			break
		}
		if err != nil {
			abort(dst)
			abort(src)
			return n
		}
	}
	half.Store(true)
	if closer, ok := dst.(interface{ CloseWrite() error }); !ok || closer.CloseWrite() != nil {
		dst.Close()
		return n
	}
	dst.SetReadDeadline(time.Now().Add(halfOpenSilence)) //nolint:errcheck // a closed connection shows in the read
	return n
}

// peeled sends on what layers above a connection have read of it, and gives the
// connection below them: an intake can wait for that one without space.
func peeled(src net.Conn, out outlet) (below net.Conn, n int64, err error) {
	for {
		var read []byte
		switch layer := src.(type) {
		case *peekedConn:
			if read, err = layer.r.Peek(layer.r.Buffered()); err != nil {
				return src, n, err
			}
			src = layer.Conn
		case *resumed:
			read, src = layer.read, layer.Conn
		default:
			return src, n, nil
		}
		if n += int64(len(read)); len(read) > 0 {
			if _, err := out.Write(read); err != nil {
				return src, n, err
			}
		}
	}
}

// abort closes a connection with a reset and without the goodbye of TLS, so
// that the other side does not see an end it could take for a complete answer.
func abort(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	for inner := conn; inner != nil; {
		if tcp, ok := inner.(*net.TCPConn); ok {
			tcp.SetLinger(0) //nolint:errcheck // then it is an ordinary close
			break
		}
		wrapped, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = wrapped.NetConn()
	}
	conn.Close()
}
