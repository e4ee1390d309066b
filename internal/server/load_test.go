package server

import (
	"fmt"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// TestTheStoreIsLoadedInPieces loads the same items as one page and as many, with
// the trust domain's record before and after objects.
func TestTheStoreIsLoadedInPieces(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	items := []registry.Item{
		{Key: registry.DomainKey, Value: []byte(`{"trust_domain":"acme.example","epoch":7}`), Version: 1},
		{Key: revisionKey, Value: revisionValue(3), Version: 4},
	}
	const services = 50
	for i := range services {
		name := fmt.Sprintf("service-%d", i)
		op, err := putObject(&pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{Name: name, Identities: []string{"/vms/" + name}, Protocol: "http"}}})
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, registry.Item{Key: op.Key, Value: op.Value, Version: 4})
	}
	late := append(items[1:len(items):len(items)], items[0])
	for name, pages := range map[string][][]registry.Item{
		"one": {items}, "many": each(items), "the trust domain last": each(late),
	} {
		l := newLoader()
		for _, page := range pages {
			if err := l.take(page); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		got, err := l.finish(9, now)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		loaded, _ := got.policy.Count()
		if loaded != services || got.revision != 3 || got.version != 9 || got.epoch != 7 || got.counter.Version != 4 || got.trustDomain.String() != "acme.example" {
			t.Errorf("%s: %d services at revision %d (of store version %d), version %d, epoch %d of %s", name,
				loaded, got.revision, got.counter.Version, got.version, got.epoch, got.trustDomain)
		}
		if len(l.rest) != 2 {
			t.Errorf("%s: %d items that are no objects, want 2", name, len(l.rest))
		}
	}
}

func each(items []registry.Item) [][]registry.Item {
	var out [][]registry.Item
	for _, item := range items {
		out = append(out, []registry.Item{item})
	}
	return out
}
