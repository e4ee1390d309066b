package registrytest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// counterIsLinearizable increments one counter from many writers by read and
// compare: every increment must count, and every version be used once.
func counterIsLinearizable(t *testing.T, s registry.Store) {
	ctx := within(t)
	put(t, s, "n/counter", "0")
	const writers, each = 8, 12
	var mu sync.Mutex
	versions := map[registry.Version]bool{}
	run(t, writers, func(int) error {
		for done := 0; done < each; {
			item, err := s.Get(ctx, "n/counter")
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(string(item.Value))
			if err != nil {
				return err
			}
			version, err := s.Commit(ctx, registry.Txn{
				If: []registry.Condition{registry.IfUnchanged(item)},
				Do: []registry.Op{registry.Put("n/counter", strconv.AppendInt(nil, int64(n+1), 10))},
			})
			if fault.Is(err, fault.Conflict) {
				continue
			}
			if err != nil {
				return err
			}
			mu.Lock()
			if versions[version] {
				t.Errorf("version %d was given twice", version)
			}
			versions[version] = true
			mu.Unlock()
			done++
		}
		return nil
	})
	item := read(t, s, "n/counter")
	if got := string(item.Value); got != strconv.Itoa(writers*each) {
		t.Errorf("counter is %s after %d increments", got, writers*each)
	}
	if item.Version != 1+writers*each {
		t.Errorf("version is %d after %d commits", item.Version, 1+writers*each)
	}
}

// run calls work in n goroutines and fails the test with their first error.
func run(t *testing.T, n int, work func(i int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- work(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// tokenIsConsumedOnce lets 200 consumers race to delete one key.
func tokenIsConsumedOnce(t *testing.T, s registry.Store) {
	ctx := within(t)
	key := registry.TokenKey("00")
	put(t, s, key, "token")
	var won, lost atomic.Int32
	start := make(chan struct{})
	const consumers = 200
	var ready sync.WaitGroup
	ready.Add(consumers)
	go func() {
		ready.Wait()
		close(start)
	}()
	run(t, consumers, func(i int) error {
		ready.Done()
		<-start
		_, err := s.Commit(ctx, registry.Txn{
			If: []registry.Condition{registry.IfExists(key)},
			Do: []registry.Op{registry.Delete(key), registry.Put(registry.NodeKey(fmt.Sprintf("n%d", i)), nil)},
		})
		switch {
		case err == nil:
			won.Add(1)
		case fault.Is(err, fault.Conflict):
			lost.Add(1)
		default:
			return err
		}
		return nil
	})
	if won.Load() != 1 || lost.Load() != consumers-1 {
		t.Errorf("%d consumers won and %d lost, want 1 and %d", won.Load(), lost.Load(), consumers-1)
	}
	if nodes, _ := list(t, s, registry.NodePrefix); len(nodes) != 1 {
		t.Errorf("%d nodes were admitted by one token", len(nodes))
	}
}

// historyIsLinearizable records what concurrent clients saw of one register
// and checks it against the only order there can be: the versions. A read must
// return the latest write that was acknowledged before it began, or a later
// one, and reads must never go back in time.
func historyIsLinearizable(t *testing.T, s registry.Store) {
	ctx := within(t)
	const key, writers, readers, each = "h/x", 4, 4, 25
	put(t, s, key, "0")
	if _, err := s.Get(ctx, key); err != nil { // the oldest there is to be read
		t.Fatal(err)
	}
	var acknowledged atomic.Uint64 // highest version acknowledged so far
	var mu sync.Mutex
	wrote := map[registry.Version]string{1: "0"}
	seen := map[registry.Version]string{}
	var writing atomic.Int32
	writing.Store(writers)
	run(t, writers+readers, func(i int) error {
		if i < writers {
			defer writing.Add(-1)
			return writeHistory(ctx, s, key, i, each, &acknowledged, func(v registry.Version, value string) {
				mu.Lock()
				wrote[v] = value
				mu.Unlock()
			})
		}
		var last registry.Version
		// Some of the reads come after every write, however goroutines are run.
		for after := 0; after < each; {
			if writing.Load() == 0 {
				after++
			}
			floor := registry.Version(acknowledged.Load())
			item, err := s.Get(ctx, key)
			if err != nil {
				return err
			}
			if item.Version < floor || item.Version < last {
				return fmt.Errorf("read version %d after %d was acknowledged and %d was read", item.Version, floor, last)
			}
			last = item.Version
			mu.Lock()
			seen[item.Version] = string(item.Value)
			mu.Unlock()
		}
		return nil
	})
	for version, value := range seen {
		if wrote[version] != value {
			t.Errorf("version %d was written as %q and read as %q", version, wrote[version], value)
		}
	}
}

func writeHistory(ctx context.Context, s registry.Store, key string, writer, each int, acknowledged *atomic.Uint64, record func(registry.Version, string)) error {
	for n := range each {
		value := fmt.Sprintf("%d-%d", writer, n)
		version, err := s.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Put(key, []byte(value))}})
		if err != nil {
			return err
		}
		record(version, value)
		for {
			now := acknowledged.Load()
			if uint64(version) <= now || acknowledged.CompareAndSwap(now, uint64(version)) {
				break
			}
		}
	}
	return nil
}
