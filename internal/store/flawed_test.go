package store

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/registry/registrytest"
)

// flawVar names the flaw of the store that a second run of this binary tests.
const flawVar = "KITH_TEST_FLAW"

// TestSuiteCatchesFlaws proves the suite: each store with one flaw fails the
// test that is there for it.
func TestSuiteCatchesFlaws(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for flaw, test := range map[string]string{
		"stale read":       "HistoryIsLinearizable",
		"dropped event":    "WatchIsOrderedUniqueAtomic",
		"repeated event":   "WatchIsOrderedUniqueAtomic",
		"torn transaction": "RangeIsOnePoint",
		"late pages":       "PagesAreTheRange",
		"burnt version":    "RevisionIsGaplessAndOurOwn",
		"no conditions":    "TokenIsConsumedOnce",
		"late watch":       "WatchResumes",
	} {
		cmd := exec.Command(self, "-test.run=^TestFlawedStore$/^"+test+"$")
		cmd.Env = append(os.Environ(), flawVar+"="+flaw)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--- FAIL: TestFlawedStore/"+test) {
			t.Errorf("%s passed %s: %v\n%s", flaw, test, err, out)
		}
	}
}

// TestFlawedStore runs the suite on a memory store with the flaw that the
// environment names, which is none in an ordinary run.
func TestFlawedStore(t *testing.T) {
	t.Parallel()
	registrytest.Store(t, func(*testing.T) registry.Store {
		return &flawed{Memory: NewMemory(), flaw: os.Getenv(flawVar), ranged: make(chan struct{})}
	})
}

// flawed is a memory store with at most one flaw.
type flawed struct {
	*Memory
	flaw   string
	ranged chan struct{} // received from by who waits for a Range

	mu    sync.Mutex
	calls int           // guarded by mu
	old   registry.Item // guarded by mu; what an earlier Get returned
}

// turn counts calls and reports every third one.
func (f *flawed) turn() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	return f.calls%3 == 0
}

func (f *flawed) Get(ctx context.Context, key string) (registry.Item, error) {
	item, err := f.Memory.Get(ctx, key)
	if f.flaw != "stale read" || err != nil {
		return item, err
	}
	late := f.turn()
	f.mu.Lock()
	defer f.mu.Unlock()
	if late && f.old.Key == key {
		return f.old, nil
	}
	if f.old.Key == "" {
		f.old = item
	}
	return item, nil
}

func (f *flawed) Commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	switch {
	case f.flaw == "no conditions":
		txn.If = nil
	case f.flaw == "torn transaction" && len(txn.Do) > 1:
		if _, err := f.Memory.Commit(ctx, registry.Txn{If: txn.If, Do: txn.Do[:1]}); err != nil {
			return 0, err
		}
		for range 2 { // the second began after the first, which saw the half or came just before it
			select {
			case <-f.ranged:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		txn.If, txn.Do = nil, txn.Do[1:]
	case f.flaw == "burnt version" && f.turn():
		if _, err := f.Memory.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Delete("none")}}); err != nil {
			return 0, err
		}
	}
	return f.Memory.Commit(ctx, txn)
}

func (f *flawed) Range(ctx context.Context, prefix string) ([]registry.Item, registry.Version, error) {
	items, version, err := f.Memory.Range(ctx, prefix)
	select {
	case f.ranged <- struct{}{}:
	default:
	}
	return items, version, err
}

// Pages with the flaw reads each page when it is wanted.
func (f *flawed) Pages(ctx context.Context, prefix string, take func([]registry.Item) error) (registry.Version, error) {
	if f.flaw != "late pages" {
		return f.Memory.Pages(ctx, prefix, take)
	}
	items, version, err := f.Memory.Range(ctx, prefix)
	for half := len(items) / 2; err == nil && half > 0; half = 0 {
		if err = take(items[:half]); err == nil {
			items, version, err = f.Memory.Range(ctx, prefix)
			err = errors.Join(err, take(items[half:]))
		}
	}
	return version, err
}

func (f *flawed) Watch(ctx context.Context, prefix string, after registry.Version) (registry.Watch, error) {
	if f.flaw == "late watch" && after > 0 {
		after--
	}
	w, err := f.Memory.Watch(ctx, prefix, after)
	return &flawedWatch{Watch: w, store: f}, err
}

type flawedWatch struct {
	registry.Watch
	store *flawed
	last  registry.Batch
}

func (w *flawedWatch) Next(ctx context.Context) (registry.Batch, error) {
	switch {
	case w.store.flaw == "dropped event" && w.store.turn():
		if _, err := w.Watch.Next(ctx); err != nil {
			return registry.Batch{}, err
		}
	case w.store.flaw == "repeated event" && w.last.Version > 0 && w.store.turn():
		return w.last, nil
	}
	batch, err := w.Watch.Next(ctx)
	w.last = batch
	return batch, err
}
