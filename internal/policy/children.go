package policy

import (
	"hash/maphash"
	"math/bits"
	"strings"
)

// word is how many bytes of a segment are compared as one number.
const word = 8

// children are the literal children of all nodes of a trie, in one open-addressed
// table. A segment of up to eight bytes stands in its slot, so that finding it
// touches one line of cache and no text.
type children struct {
	seed  uint64 // secret: rules come from many hands, and must not collide on purpose
	slots []child
	count int
	bytes []byte            // longer segments, one after the other
	long  map[string]uint32 // while filling: where in bytes they begin
}

type child struct {
	key    uint64 // of a longer segment: half of its hash, and where it begins
	parent uint32
	node   uint32 // 0: free
	length uint32
}

func newChildren() children {
	return children{seed: maphash.String(maphash.MakeSeed(), ""), slots: make([]child, 8), long: map[string]uint32{}}
}

// findChild is the child of parent by a segment, whose key is given; 0 if there is none.
func findChild[T string | []byte](c *children, parent uint32, key uint64, segment T) uint32 {
	mask := uint32(len(c.slots) - 1)
	for i := c.home(parent, key, len(segment)) & mask; ; i = (i + 1) & mask {
		slot := &c.slots[i]
		if slot.node == 0 {
			return 0
		}
		if slot.parent != parent || int(slot.length) != len(segment) {
			continue
		}
		if slot.key == key && len(segment) <= word || len(segment) > word && sameText(c, slot, key, segment) {
			return slot.node
		}
	}
}

func sameText[T string | []byte](c *children, slot *child, key uint64, segment T) bool {
	start := uint32(slot.key)
	return slot.key>>32 == key>>32 && string(c.bytes[start:start+slot.length]) == string(segment)
}

// add is for a child that findChild has not found.
func (c *children) add(parent, node uint32, segment string) {
	if c.count++; c.count*4 > len(c.slots)*3 {
		old := c.slots
		c.slots = make([]child, 2*len(old))
		for _, slot := range old {
			if slot.node == 0 {
				continue
			}
			key := slot.key
			if slot.length > word {
				start := uint32(slot.key)
				key = keyOf(c, c.bytes[start:start+slot.length])
			}
			c.place(slot, key)
		}
	}
	key := keyOf(c, segment)
	slot := child{key: key, parent: parent, node: node, length: uint32(len(segment))}
	if len(segment) > word {
		start, known := c.long[segment]
		if !known {
			start = uint32(len(c.bytes))
			c.bytes = append(c.bytes, segment...)
			c.long[segment] = start
		}
		slot.key = key>>32<<32 | uint64(start)
	}
	c.place(slot, key)
}

func (c *children) place(slot child, key uint64) {
	mask := uint32(len(c.slots) - 1)
	i := c.home(slot.parent, key, int(slot.length)) & mask
	for c.slots[i].node != 0 {
		i = (i + 1) & mask
	}
	c.slots[i] = slot
}

func (c *children) home(parent uint32, key uint64, length int) uint32 {
	return uint32(mix(mix(key^c.seed) ^ uint64(parent)<<32 ^ uint64(length)))
}

func mix(x uint64) uint64 {
	hi, lo := bits.Mul64(x^0xa0761d6478bd642f, 0xe7037ed1a0b428db)
	return hi ^ lo
}

// keyOf is a segment as one number: itself, or its hash where it is longer.
func keyOf[T string | []byte](c *children, segment T) uint64 {
	if len(segment) <= word {
		return load(segment)
	}
	h := c.seed ^ uint64(len(segment))
	for ; len(segment) > word; segment = segment[word:] {
		h = mix(h ^ load(segment))
	}
	return mix(h ^ load(segment))
}

// load is the first eight bytes of s, zeroes behind its end.
func load[T string | []byte](s T) uint64 {
	if len(s) >= word {
		return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	}
	var w uint64
	for i := range len(s) {
		w |= uint64(s[i]) << (8 * i)
	}
	return w
}

const (
	lows     = 0x0101010101010101
	highs    = 0x8080808080808080
	slashes  = lows * '/'
	percents = lows * '%'
)

// zeroes has the high bit set of the first byte of w that is zero, if one is.
func zeroes(w uint64) uint64 { return (w - lows) &^ w & highs }

// cut reads the segment of a path that begins at start: where it ends, its key,
// and whether it has an escape, when the key is of no use.
func (c *children) cut(path string, start int) (end int, key uint64, escaped bool) {
	left := len(path) - start
	var w uint64
	switch {
	case left >= word:
		w = load(path[start:])
	case len(path) >= word: // the end of the path, read from before its start
		w = load(path[len(path)-word:]) >> (8 * (word - left))
	default:
		w = load(path[start:])
	}
	n := left
	if slash := zeroes(w ^ slashes); slash != 0 {
		n = bits.TrailingZeros64(slash) / 8
		w &= 1<<(8*n) - 1
	} else if left > word {
		return c.cutLong(path, start)
	}
	return start + n, w, zeroes(w^percents) != 0
}

// cutLong is cut for segments of eight bytes and more.
func (c *children) cutLong(path string, start int) (end int, key uint64, escaped bool) {
	segment := path[start:]
	if n := strings.IndexByte(segment, '/'); n >= 0 {
		segment = segment[:n]
	}
	return start + len(segment), keyOf(c, segment), strings.IndexByte(segment, '%') >= 0
}
