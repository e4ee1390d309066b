package policy

import "hash/maphash"

// interner gives each distinct segment a small number. Numbers begin at 1; 0 is
// a segment it has not seen.
type interner struct {
	seed  maphash.Seed
	texts []string // texts[0] is unused
	slots []internSlot
}

type internSlot struct {
	hash uint32
	id   uint32 // 0: free
}

func newInterner() interner {
	return interner{seed: maphash.MakeSeed(), texts: make([]string, 1, 8), slots: make([]internSlot, 8)}
}

// find is the number of s, 0 if it has none.
func (in *interner) find(s string) uint32 {
	hash := uint32(maphash.String(in.seed, s))
	mask := uint32(len(in.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		slot := in.slots[i]
		if slot.id == 0 || slot.hash == hash && in.texts[slot.id] == s {
			return slot.id
		}
	}
}

// findBytes is find without making a string.
func (in *interner) findBytes(s []byte) uint32 {
	hash := uint32(maphash.Bytes(in.seed, s))
	mask := uint32(len(in.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		slot := in.slots[i]
		if slot.id == 0 || slot.hash == hash && in.texts[slot.id] == string(s) {
			return slot.id
		}
	}
}

// add is the number of s, a new one if need be.
func (in *interner) add(s string) uint32 {
	if id := in.find(s); id != 0 {
		return id
	}
	if len(in.texts)*4 > len(in.slots)*3 {
		old := in.slots
		in.slots = make([]internSlot, 2*len(old))
		for _, slot := range old {
			if slot.id != 0 {
				in.place(slot)
			}
		}
	}
	id := uint32(len(in.texts))
	in.texts = append(in.texts, s)
	in.place(internSlot{uint32(maphash.String(in.seed, s)), id})
	return id
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
