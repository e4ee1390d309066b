package kith

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// Bar 19: an identity that the agent has taken back is as good as expired, and
// connections made with it end.
func TestWithdrawnIdentityIsUsedNoMore(t *testing.T) {
	t.Parallel()
	w := &Workload{cfg: Config{}.withDefaults()}
	w.live.init()
	w.accepts.init(0)
	w.dials.init(0)
	w.calls.init(w)
	w.policy.Store(&ruling{})
	w.identity.Store(&identity{svid: &spiffe.X509SVID{}, expires: time.Now().Add(time.Hour), epoch: "abcd"})
	if _, err := w.X509SVID(); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	tracked := &acceptedConn{Conn: ours, gone: w.dials.remove}
	w.dials.all[tracked] = struct{}{}
	w.withdraw()
	if svid, err := w.X509SVID(); err == nil {
		t.Errorf("after the withdrawal there is %v", svid)
	}
	if w.epoch() == "abcd" {
		t.Error("pooled connections of before would be used")
	}
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a connection made before: %v, want its end", err)
	}
	w.withdraw() // once is enough
	if n := len(w.dials.all); n != 0 {
		t.Errorf("%d closed connections are remembered", n)
	}
}
