// Package fork is a map of which a copy costs next to nothing: a copy shares the
// entries until one of the two is written, and then all but a small part. It leaves
// out order, and locks.
package fork

import (
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"sync/atomic"
)

const (
	// most is how many Go maps a Map consists of at most. The first write to a part
	// after a fork copies that part: of 100 000 entries some 400.
	most = 256
	// each is how many entries a part has before there are four times as many: a
	// write after a fork copies the list of parts too, which is most of its cost
	// where there are few entries.
	each = 8
)

// Map is a map with a cheap Fork. As with a Go map, many may read it at once, and
// fork it, while nobody writes. The zero Map is empty and ready to use.
type Map[K comparable, V any] struct {
	seed   maphash.Seed
	parts  []map[K]V         // none, or a power of four of them
	own    [most / 64]uint64 // by part: no other Map has it
	shared atomic.Bool       // forked since own was written: neither parts nor any part is the Map's own
	count  int
}

// Fork is a copy. What is written to one of the two later, the other does not see.
func (m *Map[K, V]) Fork() *Map[K, V] {
	m.shared.Store(true)
	next := &Map[K, V]{seed: m.seed, parts: m.parts, count: m.count}
	next.shared.Store(true)
	return next
}

// Len is the number of entries.
func (m *Map[K, V]) Len() int { return m.count }

// Get is the entry of a key, if there is one.
func (m *Map[K, V]) Get(key K) (V, bool) {
	if m.count == 0 {
		var none V
		return none, false
	}
	v, ok := m.parts[m.part(key)][key]
	return v, ok
}

// Has says whether there is an entry of a key.
func (m *Map[K, V]) Has(key K) bool {
	_, ok := m.Get(key)
	return ok
}

// Put makes v the entry of a key.
func (m *Map[K, V]) Put(key K, v V) {
	part := m.writable(key)
	before := len(part)
	part[key] = v
	m.count += len(part) - before
}

// Delete removes the entry of a key, if there is one.
func (m *Map[K, V]) Delete(key K) {
	if !m.Has(key) {
		return
	}
	delete(m.writable(key), key)
	m.count--
}

// All yields every entry, in no order.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, part := range m.parts {
			for k, v := range part {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// Keys yields every key, in no order.
func (m *Map[K, V]) Keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range m.All() {
			if !yield(k) {
				return
			}
		}
	}
}

// part is where a key belongs.
func (m *Map[K, V]) part(key K) int {
	return int(maphash.Comparable(m.seed, key) & uint64(len(m.parts)-1))
}

// writable is the part of a key, made the Map's own.
func (m *Map[K, V]) writable(key K) map[K]V {
	if m.parts == nil {
		m.seed, m.parts = maphash.MakeSeed(), make([]map[K]V, 1)
	}
	if m.shared.Load() {
		m.own = [most / 64]uint64{}
		m.parts = slices.Clone(m.parts)
		m.shared.Store(false)
	}
	if m.count >= each*len(m.parts) && len(m.parts) < most {
		m.grow()
	}
	i := m.part(key)
	if m.own[i/64]&(1<<(i%64)) == 0 {
		m.own[i/64] |= 1 << (i % 64)
		if m.parts[i] = maps.Clone(m.parts[i]); m.parts[i] == nil {
			m.parts[i] = make(map[K]V)
		}
	}
	return m.parts[i]
}

// grow spreads the entries over four times as many parts, all of them new.
func (m *Map[K, V]) grow() {
	before := m.parts
	m.parts = make([]map[K]V, 4*len(before))
	for i := range m.parts {
		m.parts[i] = make(map[K]V)
		m.own[i/64] |= 1 << (i % 64)
	}
	for _, part := range before {
		for k, v := range part {
			m.parts[m.part(k)][k] = v
		}
	}
}
