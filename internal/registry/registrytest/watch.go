package registrytest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

func watch(t *testing.T, s registry.Store, prefix string, after registry.Version) registry.Watch {
	t.Helper()
	w, err := s.Watch(within(t), prefix, after)
	if err != nil {
		t.Fatalf("Watch %q after %d: %v", prefix, after, err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func next(t *testing.T, w registry.Watch) registry.Batch {
	t.Helper()
	batch, err := w.Next(within(t))
	if err != nil {
		t.Fatalf("Next: %v", err)
	}
	return batch
}

// watchIsOrdered has several writers make transactions of two keys each and
// several watches see every one of them, whole, once and in order.
func watchIsOrdered(t *testing.T, s registry.Store) {
	const writers, each, watchers = 4, 15, 3
	var watches []registry.Watch
	for range watchers {
		watches = append(watches, watch(t, s, "", 0))
	}
	ctx := within(t)
	run(t, writers, func(i int) error {
		for n := range each {
			value := fmt.Appendf(nil, "%d", n)
			_, err := s.Commit(ctx, registry.Txn{Do: []registry.Op{
				registry.Put(fmt.Sprintf("w/%d/b", i), value), registry.Put(fmt.Sprintf("w/%d/a", i), value),
			}})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, w := range watches {
		last := map[string]int{}
		for version := registry.Version(1); version <= writers*each; version++ {
			batch := next(t, w)
			if batch.Version != version {
				t.Fatalf("got version %d, want %d", batch.Version, version)
			}
			if len(batch.Events) != 2 || string(batch.Events[0].Value) != string(batch.Events[1].Value) {
				t.Fatalf("version %d is not whole: %v", version, batch.Events)
			}
			if batch.Events[0].Key >= batch.Events[1].Key {
				t.Fatalf("events are not sorted: %v", batch.Events)
			}
			key, n := batch.Events[0].Key, 0
			if _, err := fmt.Sscan(string(batch.Events[0].Value), &n); err != nil {
				t.Fatal(err)
			}
			if want, ok := last[key]; ok && n != want+1 {
				t.Fatalf("%s went from %d to %d", key, want, n)
			}
			last[key] = n
		}
	}
}

func watchResumes(t *testing.T, s registry.Store) {
	for i := range 6 {
		put(t, s, "r/x", fmt.Sprint(i+1))
	}
	commit(t, s, registry.Txn{Do: []registry.Op{registry.Delete("r/x")}})
	for after := registry.Version(0); after <= 7; after++ {
		w := watch(t, s, "r/", after)
		for version := after + 1; version <= 7; version++ {
			batch := next(t, w)
			want := registry.Batch{Version: version, Events: []registry.Event{{Key: "r/x", Value: fmt.Append(nil, version)}}}
			if version == 7 {
				want.Events[0] = registry.Event{Key: "r/x", Deleted: true}
			}
			if diff := cmp.Diff(want, batch); diff != "" {
				t.Fatalf("watch after %d (-want +got):\n%s", after, diff)
			}
		}
		w.Close()
	}
	_, err := s.Watch(within(t), "r/", 8)
	wantKind(t, err, fault.Conflict)
}

func watchSeesItsPrefix(t *testing.T, s registry.Store) {
	w := watch(t, s, "p/", 0)
	put(t, s, "q/x", "other")
	commit(t, s, registry.Txn{Do: []registry.Op{registry.Put("p/x", []byte("1")), registry.Put("q/y", nil)}})
	commit(t, s, registry.Txn{Do: []registry.Op{registry.Delete("p/none")}})
	put(t, s, "pq", "other")
	put(t, s, "p/y", "2")
	for _, want := range []registry.Batch{
		{Version: 2, Events: []registry.Event{{Key: "p/x", Value: []byte("1")}}},
		{Version: 5, Events: []registry.Event{{Key: "p/y", Value: []byte("2")}}},
	} {
		if diff := cmp.Diff(want, next(t, w)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// watchEnds ends waits by context and by Close; a watch outlives the former.
func watchEnds(t *testing.T, s registry.Store) {
	w := watch(t, s, "e/", 0)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.Next(ctx)
		ended <- err
	}()
	cancel()
	if err := waitFor(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with a cancelled context: got %v, want context.Canceled", err)
	}
	put(t, s, "e/x", "1")
	if batch := next(t, w); batch.Version != 1 {
		t.Errorf("after a cancelled wait the watch is at version %d, want 1", batch.Version)
	}
	go func() {
		_, err := w.Next(context.WithoutCancel(t.Context()))
		ended <- err
	}()
	if err := w.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := waitFor(t, ended); err == nil {
		t.Error("Next on a closed watch returned no error")
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func waitFor(t *testing.T, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(limit):
		t.Fatal("Next did not return")
		return nil
	}
}

// snapshotThenWatch builds a map from a range and a watch while others write:
// the way every server keeps its snapshot.
func snapshotThenWatch(t *testing.T, s registry.Store) {
	ctx := within(t)
	const rounds = 41 // the last one is a put, which the watch cannot pass over
	done := make(chan error, 1)
	go func() {
		for i := range rounds {
			op := registry.Put(fmt.Sprintf("s/%d", i%7), fmt.Append(nil, i))
			if i%5 == 4 {
				op = registry.Delete(op.Key)
			}
			if _, err := s.Commit(ctx, registry.Txn{Do: []registry.Op{op}}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	state := map[string]string{}
	items, version := list(t, s, "s/")
	for _, item := range items {
		state[item.Key] = string(item.Value)
	}
	w := watch(t, s, "s/", version)
	for version < rounds {
		batch := next(t, w)
		if batch.Version <= version {
			t.Fatalf("version %d after %d", batch.Version, version)
		}
		version = batch.Version
		for _, e := range batch.Events {
			if e.Deleted {
				delete(state, e.Key)
			} else {
				state[e.Key] = string(e.Value)
			}
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	items, _ = list(t, s, "s/")
	for _, item := range items {
		want[item.Key] = string(item.Value)
	}
	if diff := cmp.Diff(want, state); diff != "" {
		t.Errorf("state by watch differs from the store (-store +watch):\n%s", diff)
	}
}
