// Package registrytest is the suite that every store driver passes: it is the
// contract of registry.Store, written as tests. It holds no driver.
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// limit is how long any one test may wait for the store.
const limit = time.Minute

// Store runs the suite. open returns a new, empty store, closed by the test's
// cleanup.
func Store(t *testing.T, open func(t *testing.T) registry.Store) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, registry.Store)
	}{
		{"ReadsWhatWasWritten", readsWhatWasWritten},
		{"RevisionIsGaplessAndOurOwn", revisionIsGapless},
		{"PrefixesAreApart", prefixesAreApart},
		{"RangeIsOnePoint", rangeIsOnePoint},
		{"PagesAreTheRange", pagesAreTheRange},
		{"ConditionsHold", conditionsHold},
		{"TransactionIsAllOrNothing", transactionIsAllOrNothing},
		{"BadTransactionsAreRefused", badTransactionsAreRefused},
		{"LargestTransactionFits", largestTransactionFits},
		{"ValuesAreCopies", valuesAreCopies},
		{"CancelledContexts", cancelledContexts},
		{"CounterIsLinearizable", counterIsLinearizable},
		{"TokenIsConsumedOnce", tokenIsConsumedOnce},
		{"HistoryIsLinearizable", historyIsLinearizable},
		{"WatchIsOrderedUniqueAtomic", watchIsOrdered},
		{"WatchResumes", watchResumes},
		{"WatchSeesItsPrefixOnly", watchSeesItsPrefix},
		{"WatchEnds", watchEnds},
		{"SnapshotThenWatchMissesNothing", snapshotThenWatch},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, open(t))
		})
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func commit(t *testing.T, s registry.Store, txn registry.Txn) registry.Version {
	t.Helper()
	version, err := s.Commit(within(t), txn)
	if err != nil {
		t.Fatalf("Commit: %v", err)
	}
	return version
}

func put(t *testing.T, s registry.Store, key, value string) registry.Version {
	t.Helper()
	return commit(t, s, registry.Txn{Do: []registry.Op{registry.Put(key, []byte(value))}})
}

func read(t *testing.T, s registry.Store, key string) registry.Item {
	t.Helper()
	item, err := s.Get(within(t), key)
	if err != nil {
		t.Fatalf("Get %s: %v", key, err)
	}
	return item
}

func list(t *testing.T, s registry.Store, prefix string) ([]registry.Item, registry.Version) {
	t.Helper()
	items, version, err := s.Range(within(t), prefix)
	if err != nil {
		t.Fatalf("Range %s: %v", prefix, err)
	}
	return items, version
}

func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	if !fault.Is(err, kind) {
		t.Errorf("got error %v of kind %s, want kind %s", err, fault.KindOf(err), kind)
	}
}

func readsWhatWasWritten(t *testing.T, s registry.Store) {
	_, err := s.Get(within(t), "a/none")
	wantKind(t, err, fault.NotFound)
	version := put(t, s, "a/x", "one")
	item := read(t, s, "a/x")
	if string(item.Value) != "one" || item.Key != "a/x" || item.Version != version {
		t.Errorf("got %+v, want a/x=one at version %d", item, version)
	}
	put(t, s, "a/empty", "")
	if item := read(t, s, "a/empty"); len(item.Value) != 0 {
		t.Errorf("empty value came back as %q", item.Value)
	}
	commit(t, s, registry.Txn{Do: []registry.Op{registry.Delete("a/x")}})
	_, err = s.Get(within(t), "a/x")
	wantKind(t, err, fault.NotFound)
}

func revisionIsGapless(t *testing.T, s registry.Store) {
	if items, version := list(t, s, ""); version != 0 || len(items) != 0 {
		t.Fatalf("an empty store has version %d and %d items, want 0 and none", version, len(items))
	}
	for want := registry.Version(1); want <= 5; want++ {
		if got := put(t, s, "a/x", fmt.Sprint(want)); got != want {
			t.Errorf("commit %d has version %d", want, got)
		}
	}
	// A transaction that is refused, or that deletes nothing, is no exception.
	_, err := s.Commit(within(t), registry.Txn{If: []registry.Condition{registry.IfAbsent("a/x")}, Do: []registry.Op{registry.Delete("a/x")}})
	wantKind(t, err, fault.Conflict)
	if got := commit(t, s, registry.Txn{Do: []registry.Op{registry.Delete("a/none")}}); got != 6 {
		t.Errorf("deleting nothing has version %d, want 6", got)
	}
	if _, version := list(t, s, "a/"); version != 6 {
		t.Errorf("range is at version %d, want 6", version)
	}
}

func prefixesAreApart(t *testing.T, s registry.Store) {
	for _, key := range []string{"a/1", "a/2", "ab/1", "a", "b/1", "a0"} {
		put(t, s, key, key)
	}
	for prefix, want := range map[string][]string{
		"a/": {"a/1", "a/2"},
		"a":  {"a", "a/1", "a/2", "a0", "ab/1"},
		"c/": nil,
		"":   {"a", "a/1", "a/2", "a0", "ab/1", "b/1"},
	} {
		items, _ := list(t, s, prefix)
		if diff := cmp.Diff(want, keys(items)); diff != "" {
			t.Errorf("range %q (-want +got):\n%s", prefix, diff)
		}
	}
}

func keys(items []registry.Item) []string {
	var out []string
	for _, item := range items {
		out = append(out, item.Key)
	}
	return out
}

func rangeIsOnePoint(t *testing.T, s registry.Store) {
	ctx := within(t)
	done := make(chan error, 1)
	const rounds = 60
	go func() {
		for i := range rounds {
			value := fmt.Appendf(nil, "%d", i)
			if _, err := s.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Put("p/a", value), registry.Put("p/b", value)}}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		items, version := list(t, s, "p/")
		if len(items) == 2 && string(items[0].Value) != string(items[1].Value) {
			t.Fatalf("range saw half a transaction: %s and %s", items[0].Value, items[1].Value)
		}
		if len(items) == 2 && items[0].Version != version {
			t.Fatalf("range at version %d saw an item of version %d as the latest", version, items[0].Version)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

func conditionsHold(t *testing.T, s registry.Store) {
	put(t, s, "c/x", "one")
	first := read(t, s, "c/x")
	put(t, s, "c/other", "noise")
	update := []registry.Op{registry.Put("c/x", []byte("two"))}
	for name, refused := range map[string]registry.Condition{
		"absent":     registry.IfAbsent("c/x"),
		"exists":     registry.IfExists("c/none"),
		"unchanged":  registry.IfUnchanged(registry.Item{Key: "c/x", Version: first.Version + 1}),
		"gone":       registry.IfUnchanged(registry.Item{Key: "c/none", Version: 0}),
		"never been": registry.IfUnchanged(registry.Item{Key: "c/x"}),
	} {
		_, err := s.Commit(within(t), registry.Txn{If: []registry.Condition{refused}, Do: update})
		if !fault.Is(err, fault.Conflict) {
			t.Errorf("%s: got %v, want a conflict", name, err)
		}
	}
	commit(t, s, registry.Txn{
		If: []registry.Condition{registry.IfUnchanged(first), registry.IfExists("c/other"), registry.IfAbsent("c/none")},
		Do: update,
	})
	_, err := s.Commit(within(t), registry.Txn{If: []registry.Condition{registry.IfUnchanged(first)}, Do: update})
	wantKind(t, err, fault.Conflict)
	if got := string(read(t, s, "c/x").Value); got != "two" {
		t.Errorf("got %q, want two", got)
	}
}

func transactionIsAllOrNothing(t *testing.T, s registry.Store) {
	put(t, s, "t/x", "one")
	_, err := s.Commit(within(t), registry.Txn{
		If: []registry.Condition{registry.IfExists("t/x"), registry.IfExists("t/none")},
		Do: []registry.Op{registry.Put("t/y", nil), registry.Delete("t/x")},
	})
	wantKind(t, err, fault.Conflict)
	items, _ := list(t, s, "t/")
	if diff := cmp.Diff([]string{"t/x"}, keys(items)); diff != "" {
		t.Errorf("after a refused transaction (-want +got):\n%s", diff)
	}
	version := commit(t, s, registry.Txn{Do: []registry.Op{registry.Put("t/y", nil), registry.Delete("t/x"), registry.Put("t/z", nil)}})
	items, _ = list(t, s, "t/")
	if diff := cmp.Diff([]string{"t/y", "t/z"}, keys(items)); diff != "" {
		t.Errorf("after the transaction (-want +got):\n%s", diff)
	}
	if items[0].Version != version || items[1].Version != version {
		t.Errorf("items of one transaction have versions %d and %d, want %d", items[0].Version, items[1].Version, version)
	}
}

func badTransactionsAreRefused(t *testing.T, s registry.Store) {
	big := make([]byte, registry.MaxValue+1)
	many := make([]registry.Op, registry.MaxTxnOps+1)
	heavy := make([]registry.Op, registry.MaxTxnBytes/registry.MaxValue+1)
	for i := range many {
		many[i] = registry.Put(fmt.Sprintf("b/%d", i), nil)
	}
	for i := range heavy {
		heavy[i] = registry.Put(fmt.Sprintf("b/%d", i), make([]byte, registry.MaxValue))
	}
	for name, txn := range map[string]registry.Txn{
		"empty":             {},
		"big value":         {Do: []registry.Op{registry.Put("b/x", big)}},
		"many operations":   {Do: many},
		"heavy":             {Do: heavy},
		"key twice":         {Do: []registry.Op{registry.Put("b/x", nil), registry.Delete("b/x")}},
		"empty key":         {Do: []registry.Op{registry.Put("", nil)}},
		"control character": {Do: []registry.Op{registry.Put("b/\n", nil)}},
		"long key":          {Do: []registry.Op{registry.Put(string(make([]byte, registry.MaxKey+1)), nil)}},
		"no condition":      {If: []registry.Condition{{Key: "b/x"}}, Do: []registry.Op{registry.Put("b/x", nil)}},
	} {
		if _, err := s.Commit(within(t), txn); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want an invalid error", name, err)
		}
	}
	if _, version := list(t, s, ""); version != 0 {
		t.Errorf("refused transactions moved the version to %d", version)
	}
}

func largestTransactionFits(t *testing.T, s registry.Store) {
	var ops []registry.Op
	size := registry.MaxTxnBytes/registry.MaxTxnOps - 16
	for i := range registry.MaxTxnOps {
		ops = append(ops, registry.Put(fmt.Sprintf("l/%06d", i), make([]byte, size)))
	}
	commit(t, s, registry.Txn{Do: ops})
	items, _ := list(t, s, "l/")
	if len(items) != registry.MaxTxnOps {
		t.Errorf("got %d items, want %d", len(items), registry.MaxTxnOps)
	}
	commit(t, s, registry.Txn{Do: []registry.Op{registry.Put("l/value", make([]byte, registry.MaxValue))}})
	if got := len(read(t, s, "l/value").Value); got != registry.MaxValue {
		t.Errorf("largest value has %d bytes, want %d", got, registry.MaxValue)
	}
}

func valuesAreCopies(t *testing.T, s registry.Store) {
	value := []byte("one")
	commit(t, s, registry.Txn{Do: []registry.Op{registry.Put("v/x", value)}})
	value[0] = 'X'
	item := read(t, s, "v/x")
	item.Value[0] = 'Y'
	if got := string(read(t, s, "v/x").Value); got != "one" {
		t.Errorf("a caller's buffer changed the stored value to %q", got)
	}
}

func cancelledContexts(t *testing.T, s registry.Store) {
	put(t, s, "x/a", "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"Get":   func() error { _, err := s.Get(ctx, "x/a"); return err },
		"Range": func() error { _, _, err := s.Range(ctx, "x/"); return err },
		"Pages": func() error { _, err := s.Pages(ctx, "x/", func([]registry.Item) error { return nil }); return err },
		"Commit": func() error {
			_, err := s.Commit(ctx, registry.Txn{Do: []registry.Op{registry.Delete("x/a")}})
			return err
		},
		"Watch": func() error { _, err := s.Watch(ctx, "x/", 0); return err },
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: got %v, want context.Canceled", name, err)
		}
	}
	items, version := list(t, s, "x/")
	if !slices.Equal(keys(items), []string{"x/a"}) || version != 1 {
		t.Errorf("a cancelled commit changed the store: %v at %d", keys(items), version)
	}
}
