package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// TestFullDiskRefusesCommits fills the disk as far as the store can see.
func TestFullDiskRefusesCommits(t *testing.T) {
	t.Parallel()
	var free atomic.Uint64
	free.Store(1 << 40)
	cfg := testConfig(t)
	cfg.MinFree = defaultFree
	cfg.FreeSpace = func(string) (uint64, error) { return free.Load(), nil }
	e := openEtcd(t, cfg)
	if _, err := putOne(t.Context(), e, "a/x", "one"); err != nil {
		t.Fatal(err)
	}
	free.Store(1 << 20)
	_, err := putOne(t.Context(), e, "a/x", "two")
	if !isAway(err) || !strings.Contains(err.Error(), "full") || fault.HintOf(err) == "" {
		t.Errorf("got %v, want a clear ErrAway", err)
	}
	if h := e.Health(); h.State != ReadOnly {
		t.Errorf("health is %s, want read-only", h)
	}
	item, err := e.Get(t.Context(), "a/x")
	if err != nil || string(item.Value) != "one" {
		t.Errorf("read with a full disk: %q, %v", item.Value, err)
	}
	free.Store(1 << 40)
	waitHealth(t, e, isState(OK))
	if version, err := putOne(t.Context(), e, "a/x", "two"); err != nil || version != 2 {
		t.Errorf("got version %d, %v; want 2", version, err)
	}
}

// listener tells when a line is logged.
type listener struct {
	slog.Handler
	line   string
	logged chan<- struct{}
}

func (l listener) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == l.line {
		select {
		case l.logged <- struct{}{}:
		default:
		}
	}
	return l.Handler.Handle(ctx, r)
}

// TestFullDatabaseRecovers writes one key until history fills the quota: the
// commit is refused clearly, and the store makes room by itself.
func TestFullDatabaseRecovers(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Quota = 16 << 20
	readOnly := make(chan struct{}, 1)
	cfg.Log = slog.New(listener{cfg.Log.Handler(), "store is read-only", readOnly})
	e := openEtcd(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 2*testLimit)
	defer cancel()
	behind, err := e.Watch(ctx, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer behind.Close()
	value := make([]byte, registry.MaxValue)
	var acked registry.Version
	for range 1024 { // the database grows by batches of half a second
		version, err := e.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Put("a/x", value)}})
		if err != nil {
			if !isAway(err) || !strings.Contains(err.Error(), "quota") {
				t.Fatalf("got %v, want an ErrAway that names the quota", err)
			}
			break
		}
		acked = version
	}
	select {
	case <-readOnly: // for how long is the store's to say: it makes room at once
	case <-ctx.Done():
		t.Fatalf("health is %s after %d commits, and was never read-only", e.Health(), acked)
	}
	waitHealth(t, e, isState(OK))
	if version, err := putOne(ctx, e, "a/y", "after"); err != nil || version != acked+1 {
		t.Fatalf("got version %d, %v; want %d", version, err, acked+1)
	}
	if item, err := e.Get(ctx, "a/x"); err != nil || item.Version != acked {
		t.Errorf("a/x is at version %d, %v; want %d", item.Version, err, acked)
	}
	if _, err := e.Watch(ctx, "", 1); err == nil || !strings.Contains(fmt.Sprint(err), registry.ErrCompacted.Error()) {
		t.Errorf("watch from lost history: got %v, want ErrCompacted", err)
	}
}
