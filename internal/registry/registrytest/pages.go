package registrytest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/kith-id/kith/internal/registry"
)

// pagesAreTheRange changes what is read while it is being read: more than any
// driver has on its way at once.
func pagesAreTheRange(t *testing.T, s registry.Store) {
	const rounds = 3
	for round := range rounds {
		var ops []registry.Op
		for i := range registry.MaxTxnOps {
			ops = append(ops, registry.Put(fmt.Sprintf("g/%d/%06d", round, i), fmt.Appendf(nil, "%d", i)))
		}
		commit(t, s, registry.Txn{Do: ops})
	}
	put(t, s, "h/other", "one")
	want, at := list(t, s, "g/")
	if len(want) != rounds*registry.MaxTxnOps {
		t.Fatalf("range has %d items, want %d", len(want), rounds*registry.MaxTxnOps)
	}
	var got []registry.Item
	version, err := s.Pages(within(t), "g/", func(items []registry.Item) error {
		if len(got) == 0 {
			commit(t, s, registry.Txn{Do: []registry.Op{
				registry.Delete(want[len(want)-1].Key), registry.Put(want[len(want)-2].Key, []byte("changed")), registry.Put("g/z", []byte("new")),
			}})
		}
		got = append(got, items...)
		return nil
	})
	if err != nil || version != at {
		t.Fatalf("Pages: version %d, error %v, want version %d", version, err, at)
	}
	same := func(a, b registry.Item) bool {
		return a.Key == b.Key && a.Version == b.Version && string(a.Value) == string(b.Value)
	}
	if !slices.EqualFunc(got, want, same) {
		t.Errorf("pages have %d items, and not those that the range had, %d", len(got), len(want))
	}
	enough, pages := errors.New("enough"), 0
	if _, err := s.Pages(within(t), "g/", func([]registry.Item) error { pages++; return enough }); !errors.Is(err, enough) || pages != 1 {
		t.Errorf("a page that was refused: error %v after %d pages, want the error after one", err, pages)
	}
	if version, err := s.Pages(within(t), "nothing/", func([]registry.Item) error { return enough }); err != nil || version != at+1 {
		t.Errorf("no items: version %d, error %v, want version %d", version, err, at+1)
	}
}
