package policy

// lookup is numbers by the hash of what they number, while a table is filled. What
// is hashed is kept by whoever asks; a slot is the hash and the number, so that
// what differs is mostly not looked at.
type lookup struct {
	slots []uint64 // hash above, number below; 0: free, as numbers begin with 1
	count int
}

// newLookup makes room for about so many.
func newLookup(count int) lookup {
	size := 8
	for size < 2*count {
		size *= 2
	}
	return lookup{slots: make([]uint64, size)}
}

// find is the number of that hash which is the one, 0 if there is none.
func (l *lookup) find(hash uint32, is func(number uint32) bool) uint32 {
	mask := uint32(len(l.slots) - 1)
	for i := hash; ; i++ {
		s := l.slots[i&mask]
		if s == 0 || uint32(s>>32) == hash && is(uint32(s)) {
			return uint32(s)
		}
	}
}

// add is for a number that find has not found.
func (l *lookup) add(hash, number uint32) {
	if l.count++; l.count*4 > 3*len(l.slots) {
		old := l.slots
		l.slots = make([]uint64, 2*len(old))
		for _, s := range old {
			if s != 0 {
				l.place(s)
			}
		}
	}
	l.place(uint64(hash)<<32 | uint64(number))
}

func (l *lookup) place(s uint64) {
	mask := uint32(len(l.slots) - 1)
	i := uint32(s>>32) & mask
	for l.slots[i] != 0 {
		i = (i + 1) & mask
	}
	l.slots[i] = s
}
