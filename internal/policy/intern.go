package policy

import (
	"hash/maphash"
	"math/bits"
)

// interner gives each distinct segment a small number. Numbers begin at 1; 0 is
// a segment it has not seen.
type interner struct {
	seed  uint64
	count uint32
	bytes []byte // the segments, one after the other
	slots []internSlot
}

type internSlot struct {
	hash       uint32
	id         uint32 // 0: free
	start, end uint32 // in bytes
}

func newInterner() interner {
	// Rules come from many hands; a secret seed keeps them from colliding on purpose.
	seed := maphash.String(maphash.MakeSeed(), "")
	return interner{seed: seed, slots: make([]internSlot, 8)}
}

// hashSegment mixes s eight bytes at a time, as trie.aim does while it looks for the end
// of each segment: maphash on each took a third of a decision.
func hashSegment[T string | []byte](in *interner, s T) uint32 {
	h, word := in.seed, uint64(0)
	for i := range len(s) {
		word = word<<8 | uint64(s[i])
		if i&7 == 7 {
			h, word = mix(h^word), 0
		}
	}
	return lastMix(h^word, len(s))
}

func mix(x uint64) uint64 {
	hi, lo := bits.Mul64(x^0xa0761d6478bd642f, 0xe7037ed1a0b428db)
	return hi ^ lo
}

func lastMix(x uint64, length int) uint32 { return uint32(mix(x ^ uint64(length)<<56)) }

// find is the number of s, whose hash is given; 0 if it has none.
func find[T string | []byte](in *interner, s T, hash uint32) uint32 {
	mask := uint32(len(in.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		slot := &in.slots[i]
		if slot.id == 0 || slot.hash == hash && string(in.bytes[slot.start:slot.end]) == string(s) {
			return slot.id
		}
	}
}

// add is the number of s, a new one if need be.
func (in *interner) add(s string) uint32 {
	hash := hashSegment(in, s)
	if id := find(in, s, hash); id != 0 {
		return id
	}
	in.count++
	if int(in.count)*4 > len(in.slots)*3 {
		old := in.slots
		in.slots = make([]internSlot, 2*len(old))
		for _, slot := range old {
			if slot.id != 0 {
				in.place(slot)
			}
		}
	}
	start := uint32(len(in.bytes))
	in.bytes = append(in.bytes, s...)
	in.place(internSlot{hash, in.count, start, uint32(len(in.bytes))})
	return in.count
}

func (in *interner) place(slot internSlot) {
	mask := uint32(len(in.slots) - 1)
	i := slot.hash & mask
	for in.slots[i].id != 0 {
		i = (i + 1) & mask
	}
	in.slots[i] = slot
}

// edges are the literal children of all nodes, in one open-addressed table.
type edges struct {
	slots []edge
	count int
}

type edge struct {
	parent, segment uint32
	child           uint32 // 0: free
}

func newEdges() edges { return edges{slots: make([]edge, 8)} }

func (e *edges) start(parent, segment uint32) uint32 {
	h := (uint64(parent)<<32 | uint64(segment)) * 0x9e3779b97f4a7c15
	h ^= h >> 32
	return uint32(h*0xff51afd7ed558ccd>>32) & uint32(len(e.slots)-1)
}

// find is the child of parent by segment, 0 if there is none.
func (e *edges) find(parent, segment uint32) uint32 {
	mask := uint32(len(e.slots) - 1)
	for i := e.start(parent, segment); ; i = (i + 1) & mask {
		slot := &e.slots[i]
		if slot.child == 0 || slot.parent == parent && slot.segment == segment {
			return slot.child
		}
	}
}

// add is for an edge that find has not found.
func (e *edges) add(added edge) {
	if e.count++; e.count*4 > len(e.slots)*3 {
		old := e.slots
		e.slots = make([]edge, 2*len(old))
		for _, slot := range old {
			if slot.child != 0 {
				e.place(slot)
			}
		}
	}
	e.place(added)
}

func (e *edges) place(added edge) {
	mask := uint32(len(e.slots) - 1)
	i := e.start(added.parent, added.segment)
	for e.slots[i].child != 0 {
		i = (i + 1) & mask
	}
	e.slots[i] = added
}
