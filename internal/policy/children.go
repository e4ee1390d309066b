package policy

import (
	"hash/maphash"
	"math/bits"
	"strings"
)

// word is how many bytes of a segment are compared as one number.
const word = 8

// children are the literal children of all nodes of a trie: those of a node that
// has many in one open-addressed table, those of others side by side, once they
// are sealed. A segment of up to eight bytes stands there as a number, so that
// finding it touches one line of cache and no text.
type children struct {
	seed  uint64 // secret, as is other: rules come from many hands, and must not collide on purpose
	other uint64
	slots []slot
	few   []child // few[0] is no child
	bytes []byte  // longer segments, one after the other, behind their lengths

	// While they are filled:
	all   []slot            // as they came
	index lookup            // of all, from 1
	long  map[string]uint32 // where in bytes longer segments begin
}

type child struct {
	key  uint64 // of a longer segment: half of its hash, and where it begins
	node uint32 // 0: no child
	long bool   // the segment is longer than a word
	more bool   // of few: the next is the same node's
}

// slot has a quarter of a line of cache, and lies across none.
type slot struct {
	key    uint64
	parent uint32
	node   uint32 // 0: free; of a longer segment with isLong
}

// isLong marks the node of a slot. No trie has so many nodes.
const isLong = 1 << 31

// fewAtMost is how many children are looked through rather than hashed.
const fewAtMost = 4

// many is a sealed node's literals where it has more than a few children. Where
// it has a few they are the index of the first.
const many = ^uint32(0)

// newChildren makes room for about so many.
func newChildren(count int) children {
	secret := maphash.MakeSeed()
	return children{seed: maphash.String(secret, ""), other: maphash.String(secret, "other"), all: make([]slot, 0, count), index: newLookup(count)}
}

// filled is the child of a node by a segment, whose key is given, while they are
// filled; 0 if there is none.
func (c *children) filled(parent uint32, key uint64, segment string) uint32 {
	long := len(segment) > word
	if !long && !plain(key, len(segment)) {
		return 0
	}
	number := c.index.find(c.home(parent, key), func(number uint32) bool {
		s := &c.all[number-1]
		if s.parent != parent || (s.node&isLong != 0) != long {
			return false
		}
		return !long && s.key == key || long && sameText(c, s.key, key, segment)
	})
	if number == 0 {
		return 0
	}
	return c.all[number-1].node &^ isLong
}

// find is the child of a sealed node by a segment, whose key is given; 0 if there
// is none.
func find[T string | []byte](c *children, parent, literals uint32, key uint64, segment T) uint32 {
	if literals == many {
		return findSlot(c, parent, key, segment)
	}
	long := len(segment) > word
	if !long && !plain(key, len(segment)) {
		return 0
	}
	for i := literals; ; i++ {
		here := &c.few[i]
		if here.long == long && (here.key == key || long && sameText(c, here.key, key, segment)) {
			return here.node
		}
		if !here.more {
			return 0
		}
	}
}

// findSlot is find among all that are hashed.
func findSlot[T string | []byte](c *children, parent uint32, key uint64, segment T) uint32 {
	if len(segment) <= word {
		if !plain(key, len(segment)) {
			return 0
		}
		return c.short(parent, key)
	}
	mask := uint32(len(c.slots) - 1)
	for i := c.home(parent, key); ; i++ {
		here := &c.slots[i&mask]
		if here.node == 0 {
			return 0
		}
		if here.parent == parent && here.node&isLong != 0 && sameText(c, here.key, key, segment) {
			return here.node &^ isLong
		}
	}
}

// short is findSlot for a segment that its key is.
func (c *children) short(parent uint32, key uint64) uint32 {
	mask := uint32(len(c.slots) - 1)
	for i := c.home(parent, key); ; i++ {
		here := &c.slots[i&mask]
		if here.key == key && here.parent == parent && here.node&isLong == 0 || here.node == 0 {
			return here.node
		}
	}
}

// plain is true if the key of a segment of up to eight bytes says how many it has:
// if the last one is not zero. No literal has such bytes.
func plain(key uint64, length int) bool { return length == (64-bits.LeadingZeros64(key)+7)/8 }

func sameText[T string | []byte](c *children, there, key uint64, segment T) bool {
	return there>>32 == key>>32 && string(c.text(there)) == string(segment)
}

// text is the longer segment of a key.
func (c *children) text(key uint64) []byte {
	start := uint32(key)
	length := uint32(c.bytes[start]) | uint32(c.bytes[start+1])<<8
	return c.bytes[start+2 : start+2+length]
}

// add is for a child that filled has not found.
func (c *children) add(parent, node uint32, key uint64, segment string) {
	s := slot{key, parent, node}
	if len(segment) > word {
		start, known := c.long[segment]
		if !known {
			if c.long == nil {
				c.long = map[string]uint32{}
			}
			start = uint32(len(c.bytes))
			c.bytes = append(append(c.bytes, byte(len(segment)), byte(len(segment)>>8)), segment...)
			c.long[segment] = start
		}
		s.key, s.node = key>>32<<32|uint64(start), node|isLong
	}
	c.all = append(c.all, s)
	c.index.add(c.home(parent, key), uint32(len(c.all)))
}

// place puts one of the children of a node that has many where it is looked for.
func (c *children) place(s slot) {
	key := s.key
	if s.node&isLong != 0 {
		key = keyOf(c, c.text(key))
	}
	mask := uint32(len(c.slots) - 1)
	i := c.home(s.parent, key) & mask
	for c.slots[i].node != 0 {
		i = (i + 1) & mask
	}
	c.slots[i] = s
}

// seal ends the filling: nodes' literals become where their children are.
func (c *children) seal(nodes []node) {
	hashed, few := 0, uint32(1)
	for i := range nodes {
		n := nodes[i].literals
		if n > fewAtMost {
			hashed, nodes[i].literals = hashed+int(n), many
		} else if n > 0 {
			nodes[i].literals = few
			few += n
		}
	}
	size := 1
	for size < hashed*2 {
		size *= 2
	}
	c.few, c.slots = make([]child, few), make([]slot, size)
	for _, s := range c.all {
		at := nodes[s.parent].literals
		if at == many {
			c.place(s)
			continue
		}
		for c.few[at].node != 0 {
			c.few[at].more = true
			at++
		}
		here := &c.few[at]
		here.key, here.node, here.long = s.key, s.node&^isLong, s.node&isLong != 0
	}
	c.bytes, c.all, c.index, c.long = fitted(c.bytes), nil, lookup{}, nil
}

// home multiplies two numbers that nobody knows without the seeds.
func (c *children) home(parent uint32, key uint64) uint32 {
	hi, lo := bits.Mul64(key^c.seed, uint64(parent)^c.other)
	return uint32(hi ^ lo)
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

// whole is the first eight bytes of s, which has them.
func whole[T string | []byte](s T) uint64 {
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// load is whole, with zeroes behind the end of s.
func load[T string | []byte](s T) uint64 {
	if len(s) >= word {
		return whole(s)
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

// keyAt reads the segment of a path that begins at start: its bytes as a number,
// and how many they are; more than a word where those eight may not be all.
func keyAt(path string, start int) (key uint64, length int) {
	left := len(path) - start
	switch {
	case left >= word:
		key = whole(path[start:])
	case len(path) >= word: // the end of the path, read from before its start
		key = whole(path[len(path)-word:]) >> (8 * (word - left))
	default:
		key = load(path[start:])
	}
	slash := zeroes(key ^ slashes)
	if slash == 0 {
		return key, left
	}
	return key & (slash&-slash>>7 - 1), bits.TrailingZeros64(slash) / 8
}

// upTo is where, from start on, the byte is that eight times make all; the length of
// text if it is nowhere.
func upTo(text string, start int, all uint64) int {
	for ; start+word <= len(text); start += word {
		if here := zeroes(whole(text[start:]) ^ all); here != 0 {
			return start + bits.TrailingZeros64(here)/8
		}
	}
	if len(text) >= word { // the end, read from before start
		if here := zeroes(whole(text[len(text)-word:])>>(8*(word-len(text)+start)) ^ all); here != 0 {
			return start + bits.TrailingZeros64(here)/8
		}
		return len(text)
	}
	for ; start < len(text) && text[start] != byte(all); start++ {
	}
	return start
}

// cut reads the segment of a path that begins at start: where it ends, its key,
// and whether it has an escape, when the key is of no use.
func (c *children) cut(path string, start int) (end int, key uint64, escaped bool) {
	key, length := keyAt(path, start)
	if length > word {
		return c.cutLong(path, start)
	}
	return start + length, key, zeroes(key^percents) != 0
}

// cutLong is cut for segments of eight bytes and more.
func (c *children) cutLong(path string, start int) (end int, key uint64, escaped bool) {
	segment := path[start:]
	if n := strings.IndexByte(segment, '/'); n >= 0 {
		segment = segment[:n]
	}
	return start + len(segment), keyOf(c, segment), strings.IndexByte(segment, '%') >= 0
}
