//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/test/lab"
)

// The tests of this file wait most of the time, so they run beside each other.
// Their lifetimes are the shortest there are: SVIDs live a minute, and half of
// that without a server is what the trust domain must survive.
const (
	shortest = 30 * time.Second
	life     = 2 * shortest
	half     = 30 * time.Minute // an hour's
)

func calm(outage time.Duration) options {
	return options{outage: outage, rate: 10, held: 4, steady: true}
}

// TestBar12ServerAway takes the server away for 20 s of the 30 s that its trust
// domain is configured to survive (the bar: 30 min, SVIDs of an hour). Handshakes,
// requests and held connections go on; each agent is killed meanwhile and serves
// from its cache, old programs and one that starts only then.
func TestBar12ServerAway(t *testing.T) {
	t.Parallel()
	budget, away := measure(shortest, half), measure(20*time.Second, half)
	s := newStage(t, calm(budget))
	s.server.Hold()
	gone := time.Now()
	for i, n := range s.nodes {
		<-time.After(2 * time.Second)
		n.agent.Kill()
		t.Logf("agent of vm-%d killed %s into the outage", i+1, time.Since(gone).Round(time.Millisecond))
	}
	lab.Eventually(t, lab.Soon, "a program that starts during the outage is served from the cache", func() error {
		r := s.nodes[2].Try("kith", "run", "--as", "web", "--", "curl", "-s", "-m", "10", "-w", "%{http_code}", "http://front/passes/late")
		if !strings.Contains(r.Stdout, "200") {
			return fmt.Errorf("got %q, %s", r.Stdout, r.Stderr)
		}
		return nil
	})
	<-time.After(time.Until(gone.Add(away)))
	s.server.Release()
	lab.Eventually(t, lab.Soon, "all is well again", func() error { return s.well(served()...) })
	t.Logf("the server was away for %s, with SVIDs of %s", away, 2*budget)
	s.strange(nil)
	s.conclude()
}

// TestBar13StoreAway stops the store for half a minute (the bar: half an hour), in
// which every SVID is renewed at least once: all of these renewals succeed. What would have
// to be written is refused: the first time within 5 s, as a store that has
// stopped is first taken for a slow one, and then within 1 s (the bar), both
// stretched for a slow machine.
func TestBar13StoreAway(t *testing.T) {
	t.Parallel()
	away := measure(shortest, half)
	s := newStage(t, calm(away))
	slowness := lab.Slowness(t)
	store := s.waitStoreChild()
	refusedBefore, err := s.metric("kith_ca_refused_total")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(store, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	for i := range 4 {
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), lab.Soon)
		_, err := s.admin.AddNode(ctx, &pb.AddNodeRequest{Name: fmt.Sprintf("late-%d", i), Class: "vms"})
		cancel()
		took := time.Since(begun)
		t.Logf("a new node was refused after %s: %v", took.Round(time.Millisecond), err)
		if err == nil || !strings.Contains(err.Error(), "store") {
			t.Errorf("a new node while the store is away: %v; want a refusal that names the store", err)
		}
		bar := time.Second
		if i == 0 {
			bar = 5 * time.Second
		}
		if limit := time.Duration(float64(bar) * max(slowness, 1.5)); took > limit {
			t.Errorf("a new node was refused after %s, want at most %s", took, limit)
		}
	}
	s.renew(5, s.nodes...)
	<-time.After(time.Until(stopped.Add(away)))
	s.renew(5, s.nodes...)
	if refused, err := s.metric("kith_ca_refused_total"); err != nil || refused != refusedBefore {
		t.Errorf("%v SVIDs were refused while the store was away (%v); want none", refused-refusedBefore, err)
	}
	if err := syscall.Kill(store, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	lab.Eventually(t, lab.Soon, "all is well again", func() error { return s.well(served()...) })
	t.Logf("well again %s after the store went on", time.Since(back))
	for _, n := range s.nodes {
		if failed := n.failedRenewals(); failed != 0 {
			t.Errorf("%v renewals failed at %s", failed, n.name)
		}
	}
	s.strange(nil)
	s.conclude()
}

// TestBar14AgentAwayUntilExpiry cuts a node off until its SVIDs, a minute long,
// have ended. Back in the network it recovers by itself within 30 s, stretched
// for a slow machine; its agent and proxies are the processes they were.
func TestBar14AgentAwayUntilExpiry(t *testing.T) {
	t.Parallel()
	s := newStage(t, calm(shortest))
	n := s.nodes[1]
	var before []int
	for _, p := range s.programsOn(n) {
		before = append(before, p.PID())
	}
	over := s.referee.disturb("back", "echo")
	s.net.Partition(n.Host, lab.BothWays)
	lab.Eventually(t, 2*life, "the node's SVID ends", func() error {
		if r := n.Try("kith", "doctor"); !strings.Contains(r.Stdout+r.Stderr, "expired") {
			return fmt.Errorf("%s%s", r.Stdout, r.Stderr)
		}
		return nil
	})
	<-time.After(5 * time.Second)
	s.net.Heal(n.Host)
	healed := time.Now()
	bound := time.Duration(float64(30*time.Second) * lab.Slowness(t))
	s.referee.restart(served()...)
	lab.Eventually(t, bound, "all is well again", func() error { return s.well(served()...) })
	over()
	t.Logf("well again %s after the node was back", time.Since(healed))
	for i, p := range s.programsOn(n) {
		if p.PID() != before[i] {
			t.Errorf("%s was process %d and is %d: it should recover without a restart", p.Label, before[i], p.PID())
		}
	}
	s.strange(nil)
	s.conclude()
}
