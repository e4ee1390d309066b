package run_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/run"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// story records what happened, in order.
type story struct {
	mu    sync.Mutex
	lines []string
}

func (s *story) add(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, line)
}

// part notes its start and stop; it is ready once started.
func (s *story) part(name string, err error) run.Part {
	ready := make(chan struct{})
	return run.Part{Name: name, Ready: ready, Run: func(ctx context.Context) error {
		s.add("+" + name)
		close(ready)
		<-ctx.Done()
		s.add("-" + name)
		return err
	}}
}

func TestStartsInOrderStopsInReverse(t *testing.T) {
	var s story
	ctx, cancel := context.WithCancel(t.Context())
	err := run.Group(ctx, run.Config{OnReady: func() { s.add("ready"); cancel() }},
		s.part("a", nil), s.part("b", context.Canceled), s.part("c", nil))
	if err != nil {
		t.Errorf("stopped by its context: %v, want nil", err)
	}
	if diff := cmp.Diff([]string{"+a", "+b", "+c", "ready", "-c", "-b", "-a"}, s.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFirstErrorWins(t *testing.T) {
	var s story
	boom, late := errors.New("boom"), errors.New("late")
	ready := make(chan struct{})
	err := run.Group(t.Context(), run.Config{OnReady: func() { close(ready) }},
		s.part("a", late),
		run.Part{Name: "b", Run: func(context.Context) error { <-ready; return boom }})
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "b: boom") {
		t.Errorf("got %v, want b: boom first", err)
	}
	if !errors.Is(err, late) {
		t.Errorf("got %v, want what failed while stopping too", err)
	}
}

func TestPartThatEndsStopsTheGroupCleanly(t *testing.T) {
	var s story
	err := run.Group(t.Context(), run.Config{}, s.part("a", nil),
		run.Part{Name: "b", Run: func(context.Context) error { return nil }})
	if err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestPartThatFailsBeforeReadyKeepsTheNextFromStarting(t *testing.T) {
	var s story
	boom := errors.New("boom")
	err := run.Group(t.Context(), run.Config{OnReady: func() { s.add("ready") }},
		s.part("a", nil),
		run.Part{Name: "b", Ready: make(chan struct{}), Run: func(context.Context) error { return boom }},
		s.part("c", nil))
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want boom", err)
	}
	if diff := cmp.Diff([]string{"+a", "-a"}, s.lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStopWhileAPartIsNotReady(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := run.Group(ctx, run.Config{}, run.Part{
		Name: "slow", Ready: make(chan struct{}),
		Run: func(ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() },
	})
	if err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestDrainIsOneLimitForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		stuck := func(name string) run.Part {
			return run.Part{Name: name, Run: func(context.Context) error { <-release; return nil }}
		}
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		err := run.Group(ctx, run.Config{Drain: 3 * time.Second, OnReady: cancel}, stuck("a"), stuck("b"))
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("took %v, want 3s", took)
		}
		if want := "still running 3s after stop: b, a"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		close(release)
	})
}

func TestSignalEndsTheContextAndSaysWhich(t *testing.T) {
	ctx, release := run.Signals(t.Context())
	defer release()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if got, want := context.Cause(ctx).Error(), "signal: terminated"; got != want {
		t.Errorf("cause %q, want %q", got, want)
	}
}

func TestReleaseGivesTheSignalsBack(t *testing.T) {
	ctx, release := run.Signals(t.Context())
	release()
	if ctx.Err() == nil {
		t.Error("context lives after release")
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := run.NewNotifier(func(string) string { return path })
	ctx, cancel := context.WithCancel(t.Context())
	if err := run.Group(ctx, run.Config{Notify: n, OnReady: cancel}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		buf := make([]byte, 64)
		k, err := l.Read(buf)
		if err != nil || string(buf[:k]) != want {
			t.Errorf("got %q, %v; want %s", buf[:k], err, want)
		}
	}
}

func TestNobodyToNotifyIsNoError(t *testing.T) {
	for _, socket := range []string{"", "/nowhere/n"} {
		n := run.NewNotifier(func(string) string { return socket })
		ctx, cancel := context.WithCancel(t.Context())
		if err := run.Group(ctx, run.Config{Notify: n, OnReady: cancel}); err != nil {
			t.Errorf("NOTIFY_SOCKET=%q: %v", socket, err)
		}
	}
}

func TestBackoffGrowsToItsLimitAndStartsOver(t *testing.T) {
	b := run.Backoff{Min: time.Second, Max: 10 * time.Second}
	for _, span := range []time.Duration{1, 2, 4, 8, 10, 10} {
		span *= time.Second
		if got := b.Next(); got < span/2 || got > span {
			t.Errorf("Next = %v, want %v to %v", got, span/2, span)
		}
	}
	b.Reset()
	if got := b.Next(); got > time.Second {
		t.Errorf("after Reset %v, want at most 1s", got)
	}
}

func TestBackoffWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b run.Backoff
		begin := time.Now()
		if err := b.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d < 50*time.Millisecond || d > 100*time.Millisecond {
			t.Errorf("first wait %v, want 50 to 100 ms", d)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want canceled", err)
		}
	})
}
