package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

func TestOwnerOfALocalConnection(t *testing.T) {
	accepted := make(chan net.Conn, 1)
	addr := listenTCP(t, func(conn net.Conn) { accepted <- conn; io.Copy(io.Discard, conn) })
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	uid, err := ownerOf(<-accepted)
	if err != nil || int(uid) != testUID() {
		t.Errorf("got uid %d, %v, want %d", uid, err, testUID())
	}
}

func TestAnotherUserIsRefused(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(inner, nil, slog.New(slog.DiscardHandler)).(*gate)
	g.allowed = []uint32{uint32(testUID()) + 1} // as if we were somebody else
	done := make(chan error, 1)
	go func() {
		_, err := g.Accept()
		done <- err
	}()
	// The reset may come before Dial has returned.
	if conn, err := net.Dial("tcp", inner.Addr().String()); err == nil {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(proxytest.Patience))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want a reset", err)
		}
	}
	inner.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: got %v", err)
	}
}

// T36: whoever sends a request and closes at once shall not be taken for root,
// whom the kernel names as the owner of a closed socket.
func TestAClosedConnectionHasNoOwner(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(conn.RemoteAddr().String())
	if _, err := io.WriteString(conn, "POST http://orders/ HTTP/1.1\r\nHost: orders\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	accepted, err := inner.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if uid, err := ownerOf(accepted); err == nil {
		t.Errorf("the closed connection belongs to user %d", uid)
	}
	if uid, err := readTable(theirs, ours); err == nil {
		t.Errorf("by the table, it belongs to user %d", uid)
	}
}

func TestOwnerByTable(t *testing.T) {
	accepted := make(chan net.Conn, 1)
	conn, err := net.Dial("tcp", listenTCP(t, func(c net.Conn) { accepted <- c; io.Copy(io.Discard, c) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	<-accepted
	uid, err := readTable(netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(conn.RemoteAddr().String()))
	if err != nil || int(uid) != testUID() {
		t.Errorf("got uid %d, %v, want %d", uid, err, testUID())
	}
}

func FuzzParseDiag(f *testing.F) {
	theirs, ours := netip.MustParseAddrPort("127.0.0.1:1000"), netip.MustParseAddrPort("127.0.0.1:2000")
	f.Add(make([]byte, 100))
	f.Add(diagRequest(theirs, ours))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if _, err := parseDiag(answer, theirs, ours); err == nil && len(answer) < diagAnswerSize {
			t.Errorf("%d bytes are an answer", len(answer))
		}
	})
}
