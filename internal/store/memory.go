package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// memoryHistory is how many transactions a memory store remembers for watches.
const memoryHistory = 10_000

// Memory is a registry.Store that lives and dies with its process: for
// `kith dev` and tests.
type Memory struct {
	mu      sync.Mutex
	items   map[string]registry.Item // guarded by mu
	version registry.Version         // guarded by mu
	history []registry.Batch         // guarded by mu; the last transactions, oldest first
	moved   chan struct{}            // guarded by mu; closed and replaced by each commit
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{items: map[string]registry.Item{}, moved: make(chan struct{})}
}

// Get implements registry.Store.
func (m *Memory) Get(ctx context.Context, key string) (registry.Item, error) {
	if err := checkCall(ctx, "get "+key); err != nil {
		return registry.Item{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	item, ok := m.items[key]
	if !ok {
		return registry.Item{}, fault.NotFoundf("get %s: no such key", key)
	}
	return cloned(item), nil
}

// Range implements registry.Store.
func (m *Memory) Range(ctx context.Context, prefix string) ([]registry.Item, registry.Version, error) {
	if err := checkCall(ctx, "range "+prefix); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var items []registry.Item
	for _, key := range slices.Sorted(maps.Keys(m.items)) {
		if strings.HasPrefix(key, prefix) {
			items = append(items, cloned(m.items[key]))
		}
	}
	return items, m.version, nil
}

// Pages implements registry.Store; there is one page.
func (m *Memory) Pages(ctx context.Context, prefix string, take func([]registry.Item) error) (registry.Version, error) {
	items, version, err := m.Range(ctx, prefix)
	if err != nil || len(items) == 0 {
		return version, err
	}
	return version, take(items)
}

// Commit implements registry.Store.
func (m *Memory) Commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	if err := checkCall(ctx, "commit"); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range txn.If {
		if item, there := m.items[c.Key]; !c.Holds(item, there) {
			return 0, c.ConflictOn()
		}
	}
	m.version++
	batch := registry.Batch{Version: m.version}
	for _, op := range txn.Do {
		if op.Delete {
			if _, there := m.items[op.Key]; there {
				delete(m.items, op.Key)
				batch.Events = append(batch.Events, registry.Event{Key: op.Key, Deleted: true})
			}
			continue
		}
		value := slices.Clone(op.Value)
		m.items[op.Key] = registry.Item{Key: op.Key, Value: value, Version: m.version}
		batch.Events = append(batch.Events, registry.Event{Key: op.Key, Value: value})
	}
	sortEvents(batch.Events)
	m.history = append(m.history, batch)
	if len(m.history) > 2*memoryHistory { // seldom, so that trimming costs little per commit
		m.history = slices.Clone(m.history[len(m.history)-memoryHistory:])
	}
	close(m.moved)
	m.moved = make(chan struct{})
	return m.version, nil
}

func sortEvents(events []registry.Event) {
	slices.SortFunc(events, func(a, b registry.Event) int { return strings.Compare(a.Key, b.Key) })
}

// Watch implements registry.Store.
func (m *Memory) Watch(ctx context.Context, prefix string, after registry.Version) (registry.Watch, error) {
	if err := checkCall(ctx, "watch "+prefix); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkResume(after); err != nil {
		return nil, fmt.Errorf("watch %s: %w", prefix, err)
	}
	return &memoryWatch{store: m, prefix: prefix, after: after, closed: make(chan struct{})}, nil
}

// checkResume says whether every transaction after the version is at hand; the
// caller holds mu.
func (m *Memory) checkResume(after registry.Version) error {
	if after > m.version {
		return fault.Conflictf("version %d is ahead of the store's %d", after, m.version)
	}
	if oldest := m.version - registry.Version(len(m.history)); after < oldest {
		return fmt.Errorf("version %d: %w", after, registry.ErrCompacted)
	}
	return nil
}

// memoryWatch reads the store's history from its own position on, so a slow
// reader holds nothing up and nothing is copied for it.
type memoryWatch struct {
	store  *Memory
	prefix string
	after  registry.Version // owned by the goroutine that calls Next
	once   sync.Once
	closed chan struct{}
}

// Next implements registry.Watch.
func (w *memoryWatch) Next(ctx context.Context) (registry.Batch, error) {
	for {
		batch, moved, err := w.poll()
		if err != nil || len(batch.Events) > 0 {
			return batch, err
		}
		select {
		case <-moved:
		case <-w.closed:
			return registry.Batch{}, errWatchClosed()
		case <-ctx.Done():
			return registry.Batch{}, ctx.Err()
		}
	}
}

// poll is the next batch below the prefix, or a channel that closes when there
// may be one.
func (w *memoryWatch) poll() (registry.Batch, <-chan struct{}, error) {
	select {
	case <-w.closed:
		return registry.Batch{}, nil, errWatchClosed()
	default:
	}
	m := w.store
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.checkResume(w.after); err != nil {
		return registry.Batch{}, nil, err
	}
	oldest := m.version - registry.Version(len(m.history))
	for w.after < m.version {
		batch := m.history[w.after-oldest]
		w.after = batch.Version
		if events := touches(batch.Events, w.prefix); len(events) > 0 {
			for i := range events {
				events[i].Value = slices.Clone(events[i].Value)
			}
			return registry.Batch{Version: batch.Version, Events: events}, nil, nil
		}
	}
	return registry.Batch{}, m.moved, nil
}

// Close implements registry.Watch.
func (w *memoryWatch) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// Health is always OK: memory cannot go away without us.
func (m *Memory) Health() Health { return Health{State: OK} }

// Close does nothing; the store ends with its last reference.
func (m *Memory) Close() error { return nil }

func errWatchClosed() error { return fmt.Errorf("watch is closed") }

func cloned(item registry.Item) registry.Item {
	item.Value = slices.Clone(item.Value)
	return item
}
