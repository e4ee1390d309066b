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
	children children
	nodes    []node   // nodes[0] is no node
	some     []uint32 // by node: some entry at or below it, for near misses
	entries  []entry  // entries[0] is no entry
	details  []detail // by entry
}

// node is where some templates have got to.
type node struct {
	one      uint32 // child by any one segment that is not empty
	rest     uint32 // root of the branch behind {**}
	first    uint32 // the first entry of a template that ends here; while filling: the last, which the first is behind
	literals uint32 // while filling: how many children by a literal segment; sealed: where they are, 0 for none
}

// entry is one action of one rule at the node its template ends in: what a
// decision reads of it, in a quarter of a line of cache.
type entry struct {
	mask   uint32 // methods; of TCP actions the port, 0 for any
	next   uint32
	name   uint32 // where its rule's name begins
	length uint8  // of the name
	bound  bool   // by a condition or an except list
}

// detail is what else there is to an entry.
type detail struct {
	rule   uint32
	text   uint32 // number of the action's text
	when   uint32 // number of its condition, 0 for none
	except uint32 // number of its rule's except list, 0 for none
}

// newTrie makes a trie with room for about so many templates, which have so many
// nodes and literal segments.
func newTrie(templates, nodes, literals int) trie {
	return trie{
		children: newChildren(literals), nodes: make([]node, 1, 1+nodes), some: make([]uint32, 1, 1+nodes),
		entries: make([]entry, 1, 1+templates), details: make([]detail, 1, 1+templates),
	}
}

func (t *trie) root() uint32 {
	t.nodes = append(t.nodes, node{})
	t.some = append(t.some, 0)
	return uint32(len(t.nodes) - 1)
}

// insert puts e where parts lead from root, unless redundant says that an entry
// already there leaves it nothing to do.
func (t *trie) insert(root uint32, parts []part, e entry, d detail, redundant func(there uint32) bool) {
	e.bound = d.when != 0 || d.except != 0
	t.entries, t.details = append(t.entries, e), append(t.details, d)
	number := uint32(len(t.entries) - 1)
	head, tail := parts, []part(nil)
	open := openAt(parts)
	if open >= 0 {
		head, tail = parts[:open], parts[open+1:]
	}
	at := t.mark(root, number)
	for _, p := range head {
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
	last := n.first
	n.first = number
	if last == 0 {
		t.entries[number].next = number
		return
	}
	// Looking at the first few keeps a node that many rules end in linear to fill.
	for i, looked := t.entries[last].next, 0; looked < 64; i, looked = t.entries[i].next, looked+1 {
		if redundant(i) {
			n.first = last
			return
		}
		if i == last {
			break
		}
	}
	t.entries[number].next = t.entries[last].next
	t.entries[last].next = number
}

func (t *trie) mark(n, number uint32) uint32 {
	if t.some[n] == 0 {
		t.some[n] = number
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
	key := keyOf(&t.children, p.text)
	if found := t.children.filled(parent, key, p.text); found != 0 {
		return found
	}
	made := t.root()
	t.children.add(parent, made, key, p.text)
	t.nodes[parent].literals++
	return made
}

// seal ends the filling, and gives back what growing left over. Before it nothing
// can be looked up.
func (t *trie) seal() {
	t.children.seal(t.nodes)
	for i := range t.nodes {
		if last := t.nodes[i].first; last != 0 {
			t.nodes[i].first, t.entries[last].next = t.entries[last].next, 0
		}
	}
	t.nodes = fitted(t.nodes)
	t.entries, t.details = fitted(t.entries), fitted(t.details)
	t.some = fitted(t.some)
}

// fitted is s without much room to grow.
func fitted[T any](s []T) []T {
	if cap(s)-len(s) <= len(s)/16 {
		return s
	}
	return slices.Clone(s)[:len(s):len(s)]
}

// query is one lookup. It lives on the stack, and is cleared for each.
type query struct {
	path   string
	mask   uint32 // an entry that shares no bit is passed over
	found  uint32
	table  *Table     // whose conditions and except lists count; nil: none do
	all    *gathering // where all that matches goes; nil: the first is enough
	in     input
	denies bool   // what is unknown meets a deny, and no allow; except lists count
	weighs bool   // allows that their condition keeps from allowing are noted
	unsure bool   // found is a deny whose condition could not be evaluated
	why    Reason // that missed did not allow
	missed uint32 // the allow that came closest but for its condition
}

// gathering is entries, as far as there is room: growing it in a lookup would put
// each query on the heap.
type gathering struct {
	entries []uint32
	n       int
}

// literal is the child of a node by the segment of a normal path that begins at
// start, 0 if there is none, and where the segment ends.
func (t *trie) literal(at, literals uint32, path string, start int) (child uint32, end int) {
	key, length := keyAt(path, start)
	if length > word || zeroes(key^percents) != 0 || !plain(key, length) {
		return t.rare(at, literals, path, start)
	}
	end = start + length
	if literals == many {
		return t.children.short(at, key), end
	}
	for i := literals; ; i++ { // as find does, but at hand: most steps are this one
		here := &t.children.few[i]
		if here.key == key && !here.long {
			return here.node, end
		}
		if !here.more {
			return 0, end
		}
	}
}

// rare is literal for segments that are longer than a word, or have escapes or
// zeroes.
func (t *trie) rare(at, literals uint32, path string, start int) (child uint32, end int) {
	end, key, escaped := t.children.cut(path, start)
	if escaped {
		return t.foldedChild(at, literals, path[start:end]), end
	}
	return find(&t.children, at, literals, key, path[start:end]), end
}

// foldedChild is the child by a segment of a normal path that has escapes.
func (t *trie) foldedChild(at, literals uint32, segment string) uint32 {
	if len(segment) > 3*maxLiteral {
		return 0 // longer than any literal
	}
	var space [3 * maxLiteral]byte
	folded := fold(space[:0], segment)
	return find(&t.children, at, literals, keyOf(&t.children, folded), folded)
}

// walk visits what q matches from node at, with the segment of its path at start
// the next, and reports whether a visit ended the search. It costs at most one
// step for each node that fits the path, however many rules there are elsewhere.
func (t *trie) walk(q *query, at uint32, start int) bool {
	for {
		n := &t.nodes[at]
		if start > len(q.path) {
			return n.first != 0 && q.visit(t, n.first) || n.rest != 0 && t.walkBack(q, n.rest, start, len(q.path))
		}
		child, one, end := uint32(0), n.one, 0
		switch {
		case n.literals != 0:
			child, end = t.literal(at, n.literals, q.path, start)
		case one != 0:
			end = upTo(q.path, start, slashes)
		}
		if end == start {
			one = 0
		}
		// The last of the ways on needs no way back: no call of its own.
		switch {
		case child != 0 && (one != 0 || n.rest != 0):
			if t.walk(q, child, end+1) {
				return true
			}
		case child != 0:
			at, start = child, end+1
			continue
		}
		switch {
		case one == 0:
			return n.rest != 0 && t.walkBack(q, n.rest, start, len(q.path))
		case n.rest != 0:
			return t.walk(q, one, end+1) || t.walkBack(q, n.rest, start, len(q.path))
		}
		at, start = one, end+1
	}
}

// walkBack goes on behind {**}: the segments of path[start:end] are still to be
// had, the last one first.
func (t *trie) walkBack(q *query, at uint32, start, end int) bool {
	n := &t.nodes[at]
	if q.visit(t, n.first) {
		return true
	}
	if start > end || n.literals == 0 && n.one == 0 {
		return false
	}
	slash := strings.LastIndexByte(q.path[:end], '/')
	segment := q.path[slash+1 : end]
	if n.literals != 0 {
		if child := t.foldedChild(at, n.literals, segment); child != 0 && t.walkBack(q, child, start, slash) {
			return true
		}
	}
	return n.one != 0 && segment != "" && t.walkBack(q, n.one, start, slash)
}

// visit looks through the entries of one node, in the order of rule names.
func (q *query) visit(t *trie, i uint32) bool {
	for ; i != 0; i = t.entries[i].next {
		e := &t.entries[i]
		if e.mask&q.mask == 0 || e.bound && q.table != nil && !q.binds(&t.details[i], i) {
			continue
		}
		if q.all == nil {
			q.found = i
			return true
		}
		if q.all.n < len(q.all.entries) {
			q.all.entries[q.all.n] = i
		}
		q.all.n++
	}
	return false
}

// binds is false for a deny whose except list frees the peer, and where a
// condition does not hold.
func (q *query) binds(d *detail, i uint32) bool {
	if q.denies && q.free(d.except) {
		return false
	}
	if d.when == 0 {
		return true
	}
	c := q.table.conditions[d.when]
	o := c.outcome(&q.in)
	q.unsure = o == unknown
	return o == holds || !q.refuses(c, o, i)
}

// refuses is false for a deny that meets a doubt.
func (q *query) refuses(c *condition, o outcome, i uint32) bool {
	if q.denies {
		return o != unknown
	}
	if q.weighs {
		if why := c.missed(o, &q.in); q.missed == 0 || why.closer(q.why) {
			q.missed, q.why = i, why
		}
	}
	return true
}

// closer orders the reasons why conditions on allows did not hold: what can be
// mended by sending a token first.
func (r Reason) closer(than Reason) bool {
	rank := [...]int{TokenInvalid: 4, TokenMissing: 3, CondError: 2, CondFalse: 1}
	return rank[r] > rank[than]
}

// free is true if an except list names the peer.
func (q *query) free(list uint32) bool { return list != 0 && q.in.peer.r.excused(list) }

// excused says whether an except list names the peer.
func (p *resolved) excused(list uint32) bool {
	return p.excepted != nil && p.excepted[list>>6]>>(list&63)&1 != 0
}
