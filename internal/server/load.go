package server

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// load builds a snapshot from all that is in the store, while it is being read.
// It also returns the items that are no objects.
func load(ctx context.Context, store registry.Store, now time.Time) (*snapshot, []registry.Item, error) {
	l := newLoader()
	version, err := store.Pages(ctx, "", l.take)
	if err != nil {
		return nil, nil, fmt.Errorf("load the store: %w", err)
	}
	if l.next.trustDomain.IsZero() {
		return nil, nil, fault.Invalidf("the store holds no trust domain")
	}
	loaded, err := l.finish(version, now)
	return loaded, l.rest, err
}

// loader is a builder that begins with nothing.
type loader struct {
	builder
	versions map[string]registry.Version // of all but objects, of which nobody asks
	rest     []registry.Item             // all but objects
	early    []registry.Event            // what came before the trust domain's record
}

func newLoader() *loader {
	l := &loader{versions: make(map[string]registry.Version)}
	l.next = &snapshot{
		members: map[string]member{},
		byKey:   map[registry.Hash]string{},
		admins:  map[string]adminEntry{},
		bundles: map[string]registry.FederatedBundle{},
	}
	l.versionOf = func(key string) registry.Version { return l.versions[key] }
	return l
}

// take is the next items, in the order of keys.
func (l *loader) take(items []registry.Item) error {
	events := l.early
	for _, item := range items {
		if !strings.HasPrefix(item.Key, registry.ObjectPrefix) {
			l.versions[item.Key] = item.Version
			l.rest = append(l.rest, item)
		}
		if item.Key != registry.DomainKey {
			events = append(events, registry.Event{Key: item.Key, Value: item.Value})
			continue
		}
		d, err := parseDomain(item.Value)
		if err != nil {
			return err
		}
		l.next.trustDomain, l.next.epoch, l.next.state = d.trustDomain, d.Epoch, newState(d.trustDomain)
	}
	if l.early = nil; l.next.trustDomain.IsZero() {
		l.early = events
		return nil
	}
	for some := range slices.Chunk(events, decodedAhead) {
		objects := decoded(some)
		for i, e := range some {
			l.ahead = objects[i]
			if err := l.apply(e); err != nil {
				return err
			}
		}
	}
	return nil
}

// decodedAhead is how many objects are read at a time: enough for all cores to be
// busy, and not all of them at once.
const decodedAhead = 4096

// decoded is the objects among many events, read on all cores; nil for what is
// none, or cannot be read.
func decoded(events []registry.Event) []*pb.Object {
	out := make([]*pb.Object, len(events))
	workers := runtime.GOMAXPROCS(0)
	var reading sync.WaitGroup
	for w := range workers {
		reading.Go(func() {
			for i := w * len(events) / workers; i < (w+1)*len(events)/workers; i++ {
				if !strings.HasPrefix(events[i].Key, registry.ObjectPrefix) {
					continue
				}
				if object := (&pb.Object{}); proto.Unmarshal(events[i].Value, object) == nil {
					out[i] = object
				}
			}
		})
	}
	reading.Wait()
	return out
}
