package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"
)

// wire is what the SDK puts under TLS: it can wait without space to read into,
// knows what has arrived, and holds back what is written.
type wire interface {
	Wait()
	Ready() bool
	Buffered() int
	Hold()
	Release() error
}

// wireOf is the wire under a TLS connection, nil if there is none.
func wireOf(conn net.Conn) wire {
	if _, ok := conn.(*tls.Conn); !ok {
		return nil
	}
	for {
		below, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = below.NetConn()
		if w, ok := conn.(wire); ok {
			return w
		}
	}
}

// space is borrowed and given back. Each piece must hold a TLS record's content.
type space interface {
	Get() []byte
	Put([]byte)
}

// intake reads a connection in large pieces. While there is nothing to read it
// has no space, where it can wait without.
type intake struct {
	conn    net.Conn
	pool    space
	wire    wire            // under TLS
	raw     syscall.RawConn // of a plain connection
	receive func(fd uintptr) bool
	unsure  bool // TLS may hold content of a record that was not read to its end

	piece []byte // what was borrowed
	n     int    // of that was read
	err   error
}

func newIntake(conn net.Conn, pool space) *intake {
	in := &intake{conn: conn, pool: pool, wire: wireOf(conn)}
	if bottom, ok := conn.(syscall.Conn); ok {
		in.raw, _ = bottom.SyscallConn()
		in.receive = in.receiveFrom
	}
	return in
}

// next is the next piece; it holds until done.
func (in *intake) next() ([]byte, error) {
	in.n, in.err = 0, nil
	switch {
	case in.wire != nil:
		if !in.unsure {
			in.wire.Wait()
		}
		in.records()
	case in.raw != nil:
		if err := in.raw.Read(in.receive); err != nil {
			in.err = err
		} else if in.n == 0 && in.err == nil {
			in.err = io.EOF
		}
	default:
		in.piece = in.pool.Get()
		in.n, in.err = in.conn.Read(in.piece)
	}
	return in.piece[:in.n], in.err
}

// done gives the piece back.
func (in *intake) done() {
	if in.piece != nil {
		in.pool.Put(in.piece)
		in.piece = nil
	}
}

// records reads what has arrived, of which each record is read by itself. There
// is always room for a whole one: what TLS held back of it nobody would wait for.
func (in *intake) records() {
	in.piece = in.pool.Get()
	for {
		n, err := in.conn.Read(in.piece[in.n:])
		in.unsure = false
		in.n += n
		if in.err = err; err != nil || len(in.piece)-in.n < maxRecord || !in.wire.Ready() {
			return
		}
	}
}

// receiveFrom reads what is there; it borrows space only if something is.
func (in *intake) receiveFrom(fd uintptr) (done bool) {
	in.piece = in.pool.Get()
	for {
		n, err := syscall.Read(int(fd), in.piece)
		switch err {
		case nil:
			in.n = n
			return true
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			in.done()
			return false
		default:
			in.err = err
			return true
		}
	}
}

// outlet writes large pieces. TLS makes several records of one, which go out
// together.
type outlet struct {
	conn net.Conn
	wire wire
}

func newOutlet(conn net.Conn) outlet { return outlet{conn: conn, wire: wireOf(conn)} }

// Write writes all of a piece.
func (o outlet) Write(piece []byte) (int, error) {
	if o.wire == nil || len(piece) <= maxRecord {
		return o.conn.Write(piece)
	}
	o.wire.Hold()
	n, err := o.conn.Write(piece)
	if failed := o.wire.Release(); err == nil {
		err = failed
	}
	return n, err
}
