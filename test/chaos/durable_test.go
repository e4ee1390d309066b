//go:build chaos

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/test/lab"
)

// writers is a cell with one node and eight writers at full speed, until the
// returned function is called, which gives the verdict.
func writers(t *testing.T) (c *cell, l *ledger, done func()) {
	t.Helper()
	c = newCell(t, options{nodes: 1})
	c.apply(service("front", "http"), service("web", "http"))
	r := newReferee(t)
	l = newLedger(c, r)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() { l.write(ctx, i, 20, 0) })
	}
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	return c, l, func() {
		stop()
		t.Log(l.summary())
		if v := r.verdict(); v != "" {
			t.Error(v)
		}
	}
}

// intact waits until the server answers and holds what it has acknowledged.
func (c *cell) intact(l *ledger, limit time.Duration) time.Duration {
	c.t.Helper()
	begun := time.Now()
	lab.Eventually(c.t, limit, "the server answers and holds what it has acknowledged", func() error {
		if err := c.ready(); err != nil {
			return err
		}
		return l.check(context.Background())
	})
	return time.Since(begun)
}

// TestBar01KillNineUnderEightWriters kills the server, or its store alone, with
// eight writers at full speed, 10 times (the bar says 200), or CHAOS_KILLS times.
// No acknowledged change is lost, and every start finds a whole store.
func TestBar01KillNineUnderEightWriters(t *testing.T) {
	kills := measure(10, 200)
	if text := os.Getenv("CHAOS_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("CHAOS_KILLS: %v", err)
		}
	}
	c, l, done := writers(t)
	var longest time.Duration
	for i := range kills {
		<-time.After(100*time.Millisecond + rand.N(700*time.Millisecond))
		if i%3 == 2 {
			_ = syscall.Kill(c.waitStoreChild(), syscall.SIGKILL)
		} else {
			c.server.Kill()
		}
		longest = max(longest, c.intact(l, lab.Soon))
	}
	done()
	t.Logf("%d kills, the longest recovery took %s", kills, longest)
	if l.acked < 10*kills {
		t.Errorf("%d changes were acknowledged between %d kills: this has shown nothing", l.acked, kills)
	}
}

// TestBar06FsyncEIO lets every fsync fail, of the store and then of the server,
// whose journal and audit log it is. From then on nothing is acknowledged; both
// end, are started again, and have lost nothing.
func TestBar06FsyncEIO(t *testing.T) {
	c, l, done := writers(t)
	for _, victim := range []struct {
		name string
		pid  func() int
	}{
		{"store", c.waitStoreChild},
		{"server", c.server.PID},
		{"store", c.waitStoreChild},
	} {
		pid := victim.pid()
		c.hub.FailSync(pid)
		w := window{from: time.Now()}
		lab.Eventually(t, lab.Soon, "the "+victim.name+", whose fsync fails, ends", func() error {
			if syscall.Kill(pid, 0) == nil {
				return errRuns
			}
			return nil
		})
		w.to = time.Now()
		if n := l.ackedWithin(w); n > 0 {
			t.Errorf("%d changes were acknowledged while the fsync of the %s failed", n, victim.name)
		}
		t.Logf("the %s ended %s after its fsync began to fail; all was well %s later", victim.name, w.to.Sub(w.from), c.intact(l, lab.Soon))
	}
	done()
	if log := c.logOf("server"); !strings.Contains(log, "input/output error") {
		t.Error("the server's log does not name the input/output error")
	}
}

// TestBar05DiskFull fills the file systems of the server and of a node: calls
// and renewals go on, changes are refused with the reason, nobody ends, and when
// there is space again all is well by itself. The disk is full for 10 s (the bar
// says 60 s); the recovery is held to 10 s, stretched for a slow machine.
func TestBar05DiskFull(t *testing.T) {
	s := newStage(t, options{disk: 320, rate: 20, held: 4, writers: 2})
	slowness := lab.Slowness(t)
	freeHub, freeNode := s.hub.FillDisk("state"), s.nodes[0].FillDisk("state")
	full := time.Now()
	s.renew(5, s.nodes...)
	lab.Eventually(t, lab.Soon, "a change is refused", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := s.admin.Apply(ctx, &pb.ApplyRequest{Owner: owner, NoWait: true, Put: []*pb.Object{rule("no-room", "web", "front", "GET /full")}})
		if err == nil || !strings.Contains(err.Error(), "disk") || !strings.Contains(err.Error(), "full") {
			return fmt.Errorf("got %v, want a refusal that says that the disk is full", err)
		}
		t.Logf("refused: %v", err)
		return nil
	})
	s.renew(5, s.nodes...)
	<-time.After(time.Until(full.Add(measure(10*time.Second, time.Minute))))
	freeHub()
	freeNode()
	freed := time.Now()
	bound := time.Duration(float64(10*time.Second) * max(slowness, lab.Slowness(t)))
	lab.Eventually(t, bound, "all is well with space again", func() error { return s.well(served()...) })
	t.Logf("well again %s after there was space; slowness %.1f", time.Since(freed), slowness)
	s.strange(nil)
	s.conclude()
}
