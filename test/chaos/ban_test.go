//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/test/lab"
)

// TestBar19Ban bans the node of the caller. Its agent is dropped and its SVIDs
// withdrawn within 1 s, its connections to proxies elsewhere end within 5 s, both
// stretched for a slow machine.
func TestBar19Ban(t *testing.T) {
	t.Parallel()
	s := newStage(t, calm(30*time.Minute))
	n, slowness := s.nodes[2], lab.Slowness(t)
	s.referee.disturb(served()...)
	ctx, cancel := context.WithTimeout(context.Background(), lab.Soon)
	defer cancel()
	if _, err := s.admin.BanNode(ctx, &pb.BanNodeRequest{Name: n.name}); err != nil {
		t.Fatal(err)
	}
	banned := time.Now()
	within := func(bar time.Duration, what string, ok func() error) {
		t.Helper()
		lab.Eventually(t, lab.Soon, what, ok)
		took := time.Since(banned)
		t.Logf("%s: %s after the ban", what, took.Round(time.Millisecond))
		if limit := time.Duration(float64(bar) * max(slowness, 2)); took > limit {
			t.Errorf("%s: %s after the ban, want at most %s", what, took, limit)
		}
	}
	within(time.Second, "the agent is dropped", func() error {
		if s.connected(n) == nil {
			return fmt.Errorf("it is connected")
		}
		return nil
	})
	within(time.Second, "its programs get no SVID", func() error {
		r := n.Try("kith", "get", "svid", "--as", "web", "--dir", n.Dir+"/svid")
		if r.Code == 0 {
			return fmt.Errorf("kith get svid gave one: %s", r.Stdout)
		}
		return nil
	})
	within(5*time.Second, "no call from the node passes, and none on a held connection", func() error {
		return s.referee.silentFor(time.Second)
	})
	for range 5 {
		<-time.After(time.Second)
		if err := s.referee.silentFor(time.Second); err != nil {
			t.Errorf("%s after the ban: %v", time.Since(banned), err)
		}
	}
	if _, err := s.admin.BanNode(ctx, &pb.BanNodeRequest{Name: n.name, Lift: true}); err != nil {
		t.Fatal(err)
	}
	lifted := time.Now()
	s.referee.restart(served()...)
	lab.Eventually(t, 2*lab.Soon, "all is well when the ban is lifted", func() error { return s.well(served()...) })
	t.Logf("well again %s after the ban was lifted", time.Since(lifted))
	s.strange(nil)
	s.conclude()
}

// silentFor is nil when no request at all has passed for so long.
func (r *referee) silentFor(d time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if since := time.Since(r.lastPassed); since < d {
		return fmt.Errorf("a request passed %s ago", since.Round(time.Millisecond))
	}
	return nil
}
