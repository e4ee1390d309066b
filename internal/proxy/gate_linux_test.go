package proxy

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

func TestAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
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
