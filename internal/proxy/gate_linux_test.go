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
