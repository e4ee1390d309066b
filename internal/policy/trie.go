package policy

import (
	"slices"
	"strings"
)

// trie matches paths against templates from any number of roots. Nodes, edges
// and entries are flat arrays addressed by number, so a trie of 100 000 rules is
// a handful of objects to the garbage collector.
//
// Behind {**} a template goes on as a branch that is read from the path's end.
type trie struct {
	segments interner
	edges    edges
	nodes    []node   // nodes[0] is no node
	entries  []entry  // entries[0] is no entry
	last     []uint32 // by node, while filling: the last of its entries
	empty    uint32   // the number of the empty segment
	tails    bool     // some template goes on behind {**}
	depth    int      // most segments before the end or {**} of any template
	literals uint32   // bit n: some template has a literal for its segment n
}

// node is where some templates have got to.
type node struct {
	one   uint32 // child by any one segment that is not empty
	rest  uint32 // root of the branch behind {**}
	first uint32 // the first entry of a template that ends here
	some  uint32 // some entry at or below this node, for near misses
}

// entry is one action of one rule at the node its template ends in.
type entry struct {
	mask uint32 // methods; of TCP actions the port, 0 for any
	rule uint32
	text uint32 // number of the action's text
	when uint32 // number of its condition, 0 for none
	next uint32
}

// newTrie makes a trie with room for about so many rules.
func newTrie(rules int) trie {
	t := trie{segments: newInterner(), edges: newEdges(), nodes: make([]node, 1, 1+2*rules), last: make([]uint32, 1, 1+2*rules), entries: make([]entry, 1, 1+rules)}
	t.empty = t.segments.add("")
	return t
}

func (t *trie) root() uint32 {
	t.nodes = append(t.nodes, node{})
	t.last = append(t.last, 0)
	return uint32(len(t.nodes) - 1)
}

// insert puts e where parts lead from root, unless redundant says that an entry
// already there leaves it nothing to do.
func (t *trie) insert(root uint32, parts []part, e entry, redundant func(there entry) bool) {
	t.entries = append(t.entries, e)
	number := uint32(len(t.entries) - 1)
	head, tail := parts, []part(nil)
	open := openAt(parts)
	if open >= 0 {
		head, tail = parts[:open], parts[open+1:]
	}
	t.depth = max(t.depth, len(head))
	t.tails = t.tails || len(tail) > 0
	at := t.mark(root, number)
	for i, p := range head {
		if p.kind == literal {
			t.literals |= 1 << i
		}
		at = t.mark(t.child(at, p), number)
	}
	if open >= 0 {
		if t.nodes[at].rest == 0 {
			made := t.root()
			t.nodes[at].rest = made
		}
		at = t.mark(t.nodes[at].rest, number)
		for _, p := range slices.Backward(tail) {
			at = t.mark(t.child(at, p), number)
		}
	}
	n := &t.nodes[at]
	// Looking at the first few keeps a node that many rules end in linear to fill.
	for i, looked := n.first, 0; i != 0 && looked < 64; i, looked = t.entries[i].next, looked+1 {
		if redundant(t.entries[i]) {
			return
		}
	}
	if n.first == 0 {
		n.first = number
	} else {
		t.entries[t.last[at]].next = number
	}
	t.last[at] = number
}

func (t *trie) mark(n, number uint32) uint32 {
	if t.nodes[n].some == 0 {
		t.nodes[n].some = number
	}
	return n
}

func (t *trie) child(parent uint32, p part) uint32 {
	if p.kind == one {
		if t.nodes[parent].one == 0 {
			made := t.root()
			t.nodes[parent].one = made
		}
		return t.nodes[parent].one
	}
	segment := t.segments.add(p.text)
	if found := t.edges.find(parent, segment); found != 0 {
		return found
	}
	made := t.root()
	t.edges.add(edge{parent, segment, made})
	return made
}

// compact gives back what growing left over.
func (t *trie) compact() {
	t.nodes, t.last = fitted(t.nodes), nil
	t.entries = fitted(t.entries)
	t.segments.bytes = fitted(t.segments.bytes)
}

// fitted is s without much room to grow.
func fitted[T any](s []T) []T {
	if cap(s)-len(s) <= len(s)/16 {
		return s
	}
	return slices.Clone(s)[:len(s):len(s)]
}

// query is one lookup. It lives on the stack.
type query struct {
	path     string
	segments int                 // in path
	head     [maxSegments]uint32 // their numbers, as far as the trie is deep
	mask     uint32              // an entry that shares no bit is passed over
	excepts  []uint32            // as in Table; nil where no exception counts
	excepted []uint64            // the except lists that name this peer
	collect  bool                // gather all entries, not only the first
	found    uint32
	all      []uint32 // what is gathered, as far as there is room: growing it here would put each query on the heap
	gathered int

	conditions []*condition // nil where they do not count
	in         input
	denies     bool   // what is unknown meets a deny, and no allow
	weighs     bool   // allows that their condition keeps from allowing are noted
	unsure     bool   // found is a deny whose condition could not be evaluated
	missed     uint32 // the allow that came closest but for its condition
	why        Reason // that it did not allow
}

// aim cuts q.path, which is normal, into segments. Where no template has a
// literal, as in the place of an ID, it is enough to know whether the segment is
// empty.
func (t *trie) aim(q *query) {
	path := q.path
	start, n := 1, 0
	for ; n < t.depth && start <= len(path); n++ {
		if t.literals>>n&1 == 0 {
			i := strings.IndexByte(path[start:], '/')
			if i < 0 {
				i = len(path) - start
			}
			if i == 0 {
				q.head[n] = t.empty
			}
			start += i + 1
			continue
		}
		h, word, escaped := t.segments.seed, uint64(0), false
		i := start
		for ; i < len(path) && path[i] != '/'; i++ {
			escaped = escaped || path[i] == '%'
			word = word<<8 | uint64(path[i])
			if (i-start)&7 == 7 {
				h, word = mix(h^word), 0
			}
		}
		if escaped {
			q.head[n] = t.foldedNumber(path[start:i])
		} else {
			q.head[n] = find(&t.segments, path[start:i], lastMix(h^word, i-start))
		}
		start = i + 1
	}
	if start <= len(path) {
		n += 1 + strings.Count(path[start:], "/")
	}
	q.segments = n
}

// foldedNumber is the number of a segment of a normal path that may have escapes.
func (t *trie) foldedNumber(segment string) uint32 {
	if len(segment) > 3*maxLiteral {
		return 0 // longer than any literal
	}
	var space [3 * maxLiteral]byte
	folded := fold(space[:0], segment)
	return find(&t.segments, folded, hashSegment(&t.segments, folded))
}

// walk visits what q matches from node at, which depth segments led to, and
// reports whether a visit ended the search. It costs at most one step for each
// node that fits the path, however many rules there are elsewhere.
func (t *trie) walk(q *query, at uint32, depth int) bool {
	n := &t.nodes[at]
	if depth == q.segments {
		if q.visit(t, n.first) {
			return true
		}
	} else if depth < t.depth {
		segment := q.head[depth]
		if segment != 0 {
			if child := t.edges.find(at, segment); child != 0 && t.walk(q, child, depth+1) {
				return true
			}
		}
		if n.one != 0 && segment != t.empty && t.walk(q, n.one, depth+1) {
			return true
		}
	}
	return n.rest != 0 && t.walkBack(q, n.rest, q.segments-depth, len(q.path))
}

// walkBack goes on behind {**}: left segments of path[:end] are still to be had,
// the last one first.
func (t *trie) walkBack(q *query, at uint32, left, end int) bool {
	n := &t.nodes[at]
	if q.visit(t, n.first) {
		return true
	}
	if !t.tails || left == 0 {
		return false
	}
	start := strings.LastIndexByte(q.path[:end], '/')
	segment := t.foldedNumber(q.path[start+1 : end])
	if segment != 0 {
		if child := t.edges.find(at, segment); child != 0 && t.walkBack(q, child, left-1, start) {
			return true
		}
	}
	return n.one != 0 && segment != t.empty && t.walkBack(q, n.one, left-1, start)
}

// visit looks through the entries of one node, in the order of rule names.
func (q *query) visit(t *trie, i uint32) bool {
	for ; i != 0; i = t.entries[i].next {
		e := &t.entries[i]
		if e.mask&q.mask == 0 || len(q.excepts) != 0 && q.free(e.rule) {
			continue
		}
		if e.when != 0 && q.conditions != nil && !q.meets(e, i) {
			continue
		}
		if !q.collect {
			q.found = i
			return true
		}
		if q.gathered < len(q.all) {
			q.all[q.gathered] = i
		}
		q.gathered++
	}
	return false
}

// meets evaluates the condition of an entry that matches otherwise.
func (q *query) meets(e *entry, i uint32) bool {
	c := q.conditions[e.when]
	o := c.eval(&q.in)
	q.unsure = o == unknown
	switch {
	case o == holds:
		return true
	case q.denies:
		return o == unknown
	}
	if q.weighs {
		if why := c.missed(o, &q.in); q.missed == 0 || why.closer(q.why) {
			q.missed, q.why = i, why
		}
	}
	return false
}

// closer orders the reasons why conditions on allows did not hold: what can be
// mended by sending a token first.
func (r Reason) closer(than Reason) bool {
	rank := [...]int{TokenInvalid: 4, TokenMissing: 3, CondError: 2, CondFalse: 1}
	return rank[r] > rank[than]
}

// free is true if the peer is excepted from the rule.
func (q *query) free(rule uint32) bool {
	if int(rule) >= len(q.excepts) || q.excepted == nil {
		return false
	}
	list := q.excepts[rule]
	return list != 0 && q.excepted[list>>6]>>(list&63)&1 != 0
}
