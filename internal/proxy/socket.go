package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket asks the kernel about the connection under a connection, without
// reading from it.
type socket struct {
	raw   syscall.RawConn
	quiet bool
	peek  func(fd uintptr) // made once, as it is asked before each use of a kept connection
}

// socketOf finds the socket under TLS and other layers.
func socketOf(conn net.Conn) (*socket, error) {
	for {
		if below, ok := conn.(interface{ NetConn() net.Conn }); ok {
			conn = below.NetConn()
			continue
		}
		bottom, ok := conn.(syscall.Conn)
		if !ok {
			return nil, net.UnknownNetworkError("no socket")
		}
		raw, err := bottom.SyscallConn()
		if err != nil {
			return nil, err
		}
		s := &socket{raw: raw}
		s.peek = func(fd uintptr) {
			var one [1]byte
			_, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			s.quiet = err == unix.EAGAIN
		}
		return s, nil
	}
}

// isQuiet says that the other side has neither closed nor said anything: that
// nobody has asked for is no answer to what is asked next.
func (s *socket) isQuiet() bool {
	s.quiet = false
	return s.raw.Control(s.peek) == nil && s.quiet
}

// isGone says that the other side has ended its half, or the connection.
func (s *socket) isGone() (gone bool) {
	err := s.raw.Control(func(fd uintptr) { gone = hungUp(int(fd)) })
	return gone || err != nil
}
