package policy

import (
	"strconv"
	"strings"
)

// maxCompared bounds how many classes of other peers a near miss is sought in.
const maxCompared = 1024

// Explain is Decide, and on a denial that no rule made it also names the allow
// rule that came closest. It is for reports: it costs microseconds and allocates.
func (t *Table) Explain(p Peer, r Request) Decision {
	var d Decision
	missed := t.decide(p, &r, &d)
	if t == nil || p.r == nil || !d.Denies() {
		return d
	}
	who := t.current(p)
	in := input{r: &r, peer: &Peer{who}, forwarder: t.forwarder, hops: t.hops}
	switch d.Reason {
	case NoRule, NoSource, UnknownTrustDomain:
		d.Near = t.near(who, &r)
	case OutsideBoundary:
		d.Near = t.nearBoundary(d.Rule, &in)
	case CondFalse, TokenMissing, TokenInvalid:
		d.Near = t.nearCondition(missed, &in)
	case CondError:
		if d.Rule != "" {
			d.Near = t.nearUnsure(d.Rule, &in)
			break
		}
		d.Near = t.nearCondition(missed, &in)
	}
	return d
}

// nearCondition says which clause kept an entry from matching, and what it read.
func (t *Table) nearCondition(number uint32, in *input) NearMiss {
	want, got := t.conditions[t.actions.details[number].when].failing(in)
	return NearMiss{t.ruleOf(number), FieldWhen, want, got}
}

// nearUnsure says what of a deny's condition could not be evaluated.
func (t *Table) nearUnsure(rule string, in *input) NearMiss {
	for i := uint32(1); i < uint32(len(t.actions.details)); i++ {
		if t.actions.details[i].when != 0 && t.ruleOf(i) == rule {
			return t.nearCondition(i, in)
		}
	}
	return NearMiss{}
}

// nearBoundary says what about a request is outside of a boundary.
func (t *Table) nearBoundary(rule string, in *input) NearMiss {
	for i, b := range t.boundaries {
		if b.rule != rule {
			continue
		}
		if in.peer.r.bounds[i] == boundOut {
			return t.missedBy(in.peer.r, rule, t.classes[b.class].from)
		}
		return t.nearInside(b.root, in)
	}
	return NearMiss{}
}

// nearInside is for a peer that a boundary names: the method, the path, the port
// or the condition is outside.
func (t *Table) nearInside(node uint32, in *input) NearMiss {
	if t.protocol == TCP {
		for i := t.actions.nodes[node].first; i != 0; i = t.actions.entries[i].next {
			if e := &t.actions.entries[i]; t.actions.details[i].when != 0 && (e.mask == 0 || e.mask == uint32(in.r.Port)) {
				return t.nearCondition(i, in)
			}
		}
		return t.missedPort(node, in.r)
	}
	q := query{path: in.r.Path}
	if q.mask = t.methodMask(in.r.Method); t.actions.walk(&q, node, 1) {
		return t.nearCondition(q.found, in)
	}
	if q.mask = allMethods; t.actions.walk(&q, node, 1) {
		return t.missedMethod(q.found, in.r)
	}
	var best reach
	t.actions.reach(&q, node, 1, 0, &best)
	return t.missedPath(best.entry, in.r)
}

func portText(port uint32) string {
	if port == 0 {
		return "unknown"
	}
	return strconv.Itoa(int(port))
}

func (t *Table) near(p *resolved, r *Request) NearMiss {
	switch {
	case t.protocol.carriesRequests() != r.Protocol.carriesRequests(), r.Protocol == 0:
		return NearMiss{Field: FieldProtocol, Want: t.protocol.String(), Got: r.Protocol.String()}
	case t.protocol == TCP:
		return t.nearConnection(p, r)
	default:
		return t.nearRequest(p, r)
	}
}

func (t *Table) nearConnection(p *resolved, r *Request) NearMiss {
	if p.allows < p.shadows {
		return t.missedPort(p.roots[p.allows].node, r)
	}
	best, from := uint32(0), ""
	for c := range t.others(p) {
		for i := t.actions.nodes[c.root].first; i != 0; i = t.actions.entries[i].next {
			fits := t.actions.entries[i].mask == 0 || t.actions.entries[i].mask == uint32(r.Port)
			if fits {
				return t.missedFrom(p, i, c.from)
			}
			if best == 0 {
				best, from = i, c.from
			}
		}
	}
	return t.missedFrom(p, best, from)
}

// nearRequest prefers, in this order: the wrong method on the right path; the
// right path up to its last segment; what somebody else may do; any other path.
func (t *Table) nearRequest(p *resolved, r *Request) NearMiss {
	q := query{path: r.Path}
	var own reach
	for _, root := range p.roots[p.allows:p.shadows] {
		q.mask = allMethods
		if t.actions.walk(&q, root.node, 1) {
			return t.missedMethod(q.found, r)
		}
		t.actions.reach(&q, root.node, 1, 0, &own)
	}
	if own.entry != 0 && own.depth > 0 && own.depth >= strings.Count(r.Path, "/")-1 {
		return t.missedPath(own.entry, r)
	}
	q.mask = t.methodMask(r.Method)
	var theirs reach
	from := ""
	for c := range t.others(p) {
		if t.actions.walk(&q, c.root, 1) {
			return t.missedFrom(p, q.found, c.from)
		}
		if own.entry == 0 {
			before := theirs
			if t.actions.reach(&q, c.root, 1, 0, &theirs); theirs != before {
				from = c.from
			}
		}
	}
	if own.entry != 0 {
		return t.missedPath(own.entry, r)
	}
	return t.missedFrom(p, theirs.entry, from)
}

// others yields the allow classes the peer is not in.
func (t *Table) others(p *resolved) func(yield func(class) bool) {
	return func(yield func(class) bool) {
		compared := 0
		for _, c := range t.classes {
			if c.tier != tierAllow || p.in(c) {
				continue
			}
			if compared++; compared > maxCompared || !yield(c) {
				return
			}
		}
	}
}

func (p *resolved) in(c class) bool {
	for _, r := range p.roots[p.allows:p.shadows] {
		if r.node == c.root {
			return true
		}
	}
	return false
}

func (t *Table) missedPath(entry uint32, r *Request) NearMiss {
	return NearMiss{t.ruleOf(entry), FieldPath, templateText(t.written(entry).path), r.Path}
}

func (t *Table) missedMethod(entry uint32, r *Request) NearMiss {
	return NearMiss{t.ruleOf(entry), FieldMethod, t.written(entry).methodText(), r.Method}
}

// missedPort is of the first entry of a node.
func (t *Table) missedPort(node uint32, r *Request) NearMiss {
	first := t.actions.nodes[node].first
	return NearMiss{t.ruleOf(first), FieldPort, portText(t.actions.entries[first].mask), portText(uint32(r.Port))}
}

// missedFrom is no near miss at all where entry is 0.
func (t *Table) missedFrom(p *resolved, entry uint32, from string) NearMiss {
	if entry == 0 {
		return NearMiss{}
	}
	return t.missedBy(p, t.ruleOf(entry), from)
}

func (t *Table) missedBy(p *resolved, rule, from string) NearMiss {
	got := p.id.String()
	if p.anonymous {
		got = "anonymous"
	}
	return NearMiss{rule, FieldFrom, from, got}
}

// written is the action an entry was made from.
func (t *Table) written(entry uint32) Action {
	a, _ := ParseAction(t.texts[t.actions.details[entry].text]) // it was parsed when the table was compiled
	return a
}

// reach is how far a path got in some class: past depth segments, where an entry
// was still to come.
type reach struct {
	depth int
	entry uint32
}

// reach finds the node at which q gets furthest; its segment at start is the next.
func (t *trie) reach(q *query, at uint32, start, depth int, best *reach) {
	if some := t.some[at]; some != 0 && (best.entry == 0 || depth > best.depth) {
		*best = reach{depth, some}
	}
	if start > len(q.path) {
		return
	}
	n := &t.nodes[at]
	end := start
	if n.literals != 0 {
		child := uint32(0)
		if child, end = t.literal(at, n.literals, q.path, start); child != 0 {
			t.reach(q, child, end+1, depth+1, best)
		}
	} else {
		end, _, _ = t.children.cut(q.path, start)
	}
	if one := n.one; one != 0 && end > start {
		t.reach(q, one, end+1, depth+1, best)
	}
}
