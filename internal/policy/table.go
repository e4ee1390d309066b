package policy

import (
	"slices"

	"github.com/kith-id/kith/spiffe"
)

// Table decides for one service, at one revision. It is immutable and safe for
// concurrent use; the zero and the nil Table deny.
type Table struct {
	service   string
	protocol  Protocol
	paths     PathOptions
	revision  uint64
	own       spiffe.TrustDomain
	rules     []string // names, in order
	texts     []string // actions as written
	methods   []string // that rules name besides the standard ones
	classes   []class
	actions   trie // paths below the roots of the classes
	sources   trie // ID paths below the root of their trust domain
	domains   map[spiffe.TrustDomain]uint32
	everyone  []binding // what every authenticated peer of any trust domain gets
	anonymous []binding
	excepts   []uint32 // by rule, as far as there are any: its except list
	lists     int      // except lists, numbered from 1
}

// tier orders what is looked at: the first tier with a match decides.
type tier uint8

const (
	tierGuardrail tier = iota
	tierDeny
	tierAllow
)

// class is the peers that one entry of from names, and where the rules of one
// tier for them begin.
type class struct {
	tier tier
	root uint32
	from string
}

// root is a class as a Peer holds it.
type root struct {
	tier tier
	node uint32
}

func newTable(set Set, svc Service, rules []string) *Table {
	return &Table{
		service: svc.Name, protocol: svc.Protocol, paths: svc.Paths, revision: set.Revision, own: set.TrustDomain,
		rules: rules, actions: newTrie(len(rules)), sources: newTrie(0),
		domains: map[spiffe.TrustDomain]uint32{},
	}
}

// Service is the name of the service the table decides for.
func (t *Table) Service() string { return t.service }

// Protocol is what the service speaks.
func (t *Table) Protocol() Protocol { return t.protocol }

// Paths is how the service's paths are to be normalised.
func (t *Table) Paths() PathOptions { return t.paths }

// Revision is the revision of the set the table was compiled from.
func (t *Table) Revision() uint64 { return t.revision }

// enter puts an action of a rule below a class's root.
func (t *Table) enter(root uint32, a *compiled, rule uint32) {
	e := entry{mask: a.mask, rule: rule, text: a.text}
	t.actions.insert(root, a.path, e, func(there entry) bool {
		if t.exceptOf(there.rule) != 0 && t.exceptOf(there.rule) != t.exceptOf(rule) {
			return false
		}
		if a.protocol == TCP {
			return there.mask == 0 || there.mask == e.mask
		}
		return there.mask&e.mask == e.mask
	})
}

func (t *Table) exceptOf(rule uint32) uint32 {
	if int(rule) < len(t.excepts) {
		return t.excepts[rule]
	}
	return 0
}

// bind gives b to the IDs of a trust domain that path matches.
func (t *Table) bind(td spiffe.TrustDomain, path []part, b binding) {
	root, ok := t.domains[td]
	if !ok {
		root = t.sources.root()
		t.domains[td] = root
	}
	e := entry{mask: 1, rule: b.number}
	if b.class {
		e.text = 1
	}
	t.sources.insert(root, path, e, func(there entry) bool { return there.rule == e.rule && there.text == e.text })
}

// Peer resolves who an authenticated peer is to the rules of this table, once
// per connection and table. The zero ID is an anonymous peer.
func (t *Table) Peer(id spiffe.ID) Peer {
	if id.IsZero() {
		return t.Anonymous()
	}
	p := &resolved{table: t, id: id}
	if t == nil {
		return Peer{p}
	}
	bindings := slices.Clone(t.everyone)
	if root, ok := t.domains[id.TrustDomain()]; ok && id.Path() != "" {
		q := query{mask: 1, collect: true}
		t.sources.aim(&q, id.Path())
		t.sources.walk(&q, root, 0)
		for _, i := range q.all {
			e := t.sources.entries[i]
			bindings = append(bindings, binding{class: e.text == 1, number: e.rule})
		}
	}
	t.resolve(p, bindings)
	return Peer{p}
}

// Anonymous is a peer that showed no identity. Only rules that say anonymous
// bind it.
func (t *Table) Anonymous() Peer {
	p := &resolved{table: t, anonymous: true}
	if t != nil {
		t.resolve(p, t.anonymous)
	}
	return Peer{p}
}

// resolve orders the peer's classes by tier and gathers its exceptions.
func (t *Table) resolve(p *resolved, bindings []binding) {
	for _, b := range bindings {
		if b.class {
			c := t.classes[b.number]
			p.roots = append(p.roots, root{c.tier, c.root})
			continue
		}
		if p.excepted == nil {
			p.excepted = make([]uint64, t.lists/64+1)
		}
		p.excepted[b.number>>6] |= 1 << (b.number & 63)
	}
	slices.SortFunc(p.roots, func(a, b root) int {
		if a.tier != b.tier {
			return int(a.tier) - int(b.tier)
		}
		return int(a.node) - int(b.node)
	})
	p.roots = slices.Compact(p.roots)
	p.allows = len(p.roots)
	for i, r := range p.roots {
		if r.tier == tierAllow {
			p.allows = i
			break
		}
	}
}

// current is p as this table knows it; a peer of another table is looked up again.
func (t *Table) current(p Peer) *resolved {
	switch {
	case p.r.table == t:
		return p.r
	case p.r.anonymous:
		return t.Anonymous().r
	default:
		return t.Peer(p.r.id).r
	}
}

// Decide says whether the peer may do this, without allocating. A guardrail's
// deny comes first, then any deny, then any allow; what nobody allows is denied.
func (t *Table) Decide(p Peer, r Request) Decision {
	switch {
	case t == nil || t.protocol == 0:
		return Decision{}
	case p.r == nil:
		return Decision{Revision: t.revision}
	}
	who := p.r
	if who.table != t {
		who = t.current(p)
	}
	var at tier
	var by uint32
	if t.protocol.carriesRequests() {
		if r.Protocol.carriesRequests() && (r.Path == "" || r.Path[0] != '/') {
			return t.Refuse(PathNotCanonical)
		}
		at, by = t.decideRequest(who, &r)
	} else {
		at, by = t.decideConnection(who, &r)
	}
	d := Decision{Revision: t.revision}
	if by == 0 {
		d.Reason = t.missing(who)
		return d
	}
	d.Rule = t.rules[t.actions.entries[by].rule]
	switch at {
	case tierGuardrail:
		d.Reason = GuardrailDeny
	case tierDeny:
		d.Reason = DenyRule
	case tierAllow:
		d.Effect, d.Reason = Allow, AllowRule
	}
	return d
}

// decideRequest is the entry that decides and its tier; no entry is 0.
func (t *Table) decideRequest(p *resolved, r *Request) (tier, uint32) {
	if !r.Protocol.carriesRequests() || r.Method == "" || len(p.roots) == 0 {
		return 0, 0
	}
	var q query
	q.mask, q.excepts, q.excepted = t.methodMask(r.Method), t.excepts, p.excepted
	t.actions.aim(&q, r.Path)
	for i := range p.roots {
		if i == p.allows {
			q.excepts = nil
		}
		if t.actions.walk(&q, p.roots[i].node, 0) {
			return p.roots[i].tier, q.found
		}
	}
	return 0, 0
}

// decideConnection is decideRequest for TCP, where an entry's mask is its port.
func (t *Table) decideConnection(p *resolved, r *Request) (tier, uint32) {
	if r.Protocol != TCP {
		return 0, 0
	}
	q := query{excepts: t.excepts, excepted: p.excepted}
	for _, root := range p.roots {
		denies := root.tier != tierAllow
		for i := t.actions.nodes[root.node].first; i != 0; i = t.actions.entries[i].next {
			e := t.actions.entries[i]
			fits := e.mask == 0 || e.mask == uint32(r.Port) || denies && r.Port == 0
			if fits && !(denies && q.free(e.rule)) {
				return root.tier, i
			}
		}
	}
	return 0, 0
}

// Refuse is a denial that no rule made, for a request that was never decided.
func (t *Table) Refuse(reason Reason) Decision {
	if t == nil {
		return Decision{Reason: reason}
	}
	return Decision{Reason: reason, Revision: t.revision}
}

// missing is why the default deny stood.
func (t *Table) missing(p *resolved) Reason {
	switch {
	case p.allows < len(p.roots):
		return NoRule
	case !p.anonymous && p.id.TrustDomain() != t.own:
		return UnknownTrustDomain
	default:
		return NoSource
	}
}

// methodMask is the bit of the method, that of all others if no rule names it.
func (t *Table) methodMask(m string) uint32 {
	if bit, ok := methodBit(m); ok {
		return bit
	}
	if i := slices.Index(t.methods, m); i >= 0 {
		return 1 << (knownMethods + i)
	}
	return otherMethods
}
