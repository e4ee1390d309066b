package store

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/registry"
)

// testLimit is how long a test waits for the store before it fails.
const testLimit = time.Minute

// waitHealth waits until the health is as wanted.
func waitHealth(t *testing.T, e *Etcd, want func(Health) bool) Health {
	t.Helper()
	timeout := time.After(testLimit)
	for {
		h, changed := e.health.get()
		if want(h) {
			return h
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("health stayed %q", h)
		}
	}
}

func isState(state State) func(Health) bool {
	return func(h Health) bool { return h.State == state }
}

// killMember ends the running member as a crash would, and waits until its
// supervisor knows.
func killMember(t *testing.T, e *Etcd) {
	t.Helper()
	pid := e.child.pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill member %d: %v", pid, err)
	}
	waitHealth(t, e, func(Health) bool { return e.child.pid() != pid })
	waitHealth(t, e, isState(OK))
}

func putOne(ctx context.Context, e *Etcd, key, value string) (registry.Version, error) {
	return e.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Put(key, []byte(value))}})
}

// TestKilledMemberLosesNothing kills the member ten times under eight writers:
// every acknowledged write is there, at the version that was acknowledged, no
// commit fails, and a watch sees each version once and in order.
func TestKilledMemberLosesNothing(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w, err := e.Watch(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const writers, kills = 8, 10
	var acked sync.Map // key -> registry.Version
	var total atomic.Int64
	progress := make(chan struct{}, 1)
	stop := make(chan struct{})
	var running sync.WaitGroup
	for i := range writers {
		running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("w/%d/%d", i, n)
				version, err := putOne(ctx, e, key, key)
				if err != nil {
					t.Errorf("commit %s: %v", key, err)
					return
				}
				acked.Store(key, version)
				total.Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
	}
	for range kills {
		for target := total.Load() + 40; total.Load() < target; {
			select {
			case <-progress:
			case <-ctx.Done():
				t.Fatal("writers are stuck")
			}
		}
		killMember(t, e)
	}
	close(stop)
	running.Wait()
	checkNothingLost(ctx, t, e, w, &acked, total.Load())
	t.Logf("%d commits", total.Load())
}

// checkNothingLost compares what was acknowledged with what the store holds
// and with what the watch saw.
func checkNothingLost(ctx context.Context, t *testing.T, e *Etcd, w registry.Watch, acked *sync.Map, total int64) {
	t.Helper()
	items, version, err := e.Range(ctx, "w/")
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(items)) != total || version != registry.Version(total) {
		t.Errorf("%d items at version %d after %d acknowledged commits", len(items), version, total)
	}
	for _, item := range items {
		if v, ok := acked.Load(item.Key); !ok || v != item.Version || string(item.Value) != item.Key {
			t.Errorf("%s at %d was acknowledged at %v", item.Key, item.Version, v)
		}
	}
	for want := registry.Version(1); want <= version; want++ {
		batch, err := w.Next(ctx)
		if err != nil || batch.Version != want || len(batch.Events) != 1 {
			t.Fatalf("watch: got %+v (%v), want version %d", batch, err, want)
		}
		if v, _ := acked.Load(batch.Events[0].Key); v != want {
			t.Fatalf("watch: version %d is %s, which was acknowledged at %v", want, batch.Events[0].Key, v)
		}
	}
}

func TestConsumptionSurvivesAKill(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	ctx, cancel := context.WithTimeout(t.Context(), testLimit)
	defer cancel()
	const tokens = 40
	for i := range tokens {
		if _, err := putOne(ctx, e, registry.TokenKey(fmt.Sprint(i)), "t"); err != nil {
			t.Fatal(err)
		}
	}
	half := make(chan struct{})
	var used atomic.Int32
	var running sync.WaitGroup
	running.Go(func() {
		for i := range tokens {
			if i == tokens/2 {
				close(half)
			}
			key := registry.TokenKey(fmt.Sprint(i))
			_, err := e.Commit(ctx, registry.Txn{If: []registry.Condition{registry.IfExists(key)}, Do: []registry.Op{registry.Delete(key)}})
			if err != nil {
				t.Errorf("consume %s: %v", key, err)
			}
			used.Add(1)
		}
	})
	<-half
	killMember(t, e)
	running.Wait()
	items, version, err := e.Range(ctx, registry.TokenPrefix)
	if err != nil || len(items) != 0 || version != 2*tokens || used.Load() != tokens {
		t.Errorf("%d tokens left at version %d (%v), want none at %d", len(items), version, err, 2*tokens)
	}
}

func TestStateSurvivesClose(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	e := openEtcd(t, cfg)
	if _, err := putOne(t.Context(), e, "a/x", "one"); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	again := openEtcd(t, cfg)
	item, err := again.Get(t.Context(), "a/x")
	if err != nil || string(item.Value) != "one" || item.Version != 1 {
		t.Fatalf("got %+v, %v", item, err)
	}
	if version, err := putOne(t.Context(), again, "a/x", "two"); err != nil || version != 2 {
		t.Errorf("got version %d, %v; want 2", version, err)
	}
	w, err := again.Watch(t.Context(), "a/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if batch, err := w.Next(t.Context()); err != nil || string(batch.Events[0].Value) != "one" {
		t.Errorf("watch from before the restart: %+v, %v", batch, err)
	}
}

// TestStoppedMemberIsAway freezes the member: reads and commits end by their
// contexts with an error that says why, and it recovers by itself.
func TestStoppedMemberIsAway(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	pid := e.child.pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	h := waitHealth(t, e, isState(Away))
	if h.Reason == "" || h.Since.IsZero() {
		t.Errorf("health without a reason or a time: %+v", h)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := putOne(ctx, e, "a/x", "one"); !isAway(err) {
		t.Errorf("commit to a frozen store: got %v, want ErrAway", err)
	}
	if _, err := e.Get(ctx, "a/x"); !isAway(err) {
		t.Errorf("get from a frozen store: got %v, want ErrAway", err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitHealth(t, e, isState(OK))
	if version, err := putOne(t.Context(), e, "a/x", "one"); err != nil || version != 1 {
		t.Errorf("got version %d, %v; want 1", version, err)
	}
}

// TestLongAbsenceIsRefusedAtOnce takes the member's binary away and kills it.
func TestLongAbsenceIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Binary = cfg.Dir + ".bin"
	if err := os.Symlink(self, cfg.Binary); err != nil {
		t.Fatal(err)
	}
	var skew atomic.Int64
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
	e := openEtcd(t, cfg)
	if err := os.Remove(cfg.Binary); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(e.child.pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitHealth(t, e, isState(Away))
	skew.Store(int64(time.Minute))
	if _, err := putOne(t.Context(), e, "a/x", "one"); !isAway(err) {
		t.Errorf("got %v, want ErrAway", err)
	}
	if err := os.Symlink(self, cfg.Binary); err != nil {
		t.Fatal(err)
	}
	waitHealth(t, e, isState(OK))
	if _, err := putOne(t.Context(), e, "a/x", "one"); err != nil {
		t.Error(err)
	}
}

// TestSignalsToTheFamilySpareTheMember sends what systemd and terminals send
// to every process of a service: the server has yet to write its last.
func TestSignalsToTheFamilySpareTheMember(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	pid := e.child.pid()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		if err := syscall.Kill(pid, signal); err != nil {
			t.Fatal(err)
		}
		if _, err := putOne(t.Context(), e, "a/x", "one"); err != nil {
			t.Errorf("after %s: %v", signal, err)
		}
	}
	if e.child.pid() != pid {
		t.Error("the member was restarted")
	}
}
