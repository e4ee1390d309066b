package policy

import (
	"slices"
	"strings"

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
	names     string   // of the rules, in order and without anything between
	texts     []string // actions as written
	methods   []string // that rules name besides the standard ones
	classes   []class
	actions   trie // paths below the roots of the classes
	sources   trie // ID paths below the root of their trust domain
	domains   map[spiffe.TrustDomain]uint32
	everyone  []binding // what every authenticated peer of any trust domain gets
	anonymous []binding
	lists     int    // except lists, numbered from 1
	forwarder uint32 // the list of those whose X-Forwarded-For counts
	hops      int

	conditions []*condition // numbered from 1
	reads      Reads        // by any of them
	boundaries []boundary   // in the order of their rules
	observed   bool         // only the platform's rules bind
	shadows    bool         // some rule is in shadow mode

	externals []External
	asked     []matcher // by external decision: what it is asked about
}

// tier orders what is looked at: the first tier with a match decides. Rules in
// shadow mode have tiers of their own, behind those that are enforced.
type tier uint8

const (
	tierGuardrail tier = iota
	tierDeny
	tierAllow
	tierShadowGuardrail
	tierShadowDeny
	tierShadowAllow
	tierBoundary // enforced or not, as the boundary says
)

const shadowTiers = tierShadowGuardrail - tierGuardrail

// gives is true where peers gain something by being in a class.
func (t tier) gives() bool { return t == tierAllow || t == tierShadowAllow || t == tierBoundary }

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

func newTable(from origin, svc Service, rules []string) *Table {
	n := len(rules)
	few, nodes := min(n, some), 2*n
	if n <= some {
		nodes = 4 * n // what is too much is soon given back; of many rules it would be much
	}
	return &Table{
		service: svc.Name, protocol: svc.Protocol, paths: svc.Paths, revision: from.revision, own: from.domain,
		names: strings.Join(rules, ""), actions: newTrie(n, nodes, nodes/2), sources: newTrie(few, few+few/4, few+few/4),
		domains: map[spiffe.TrustDomain]uint32{}, observed: svc.Mode == Observe, externals: svc.Externals,
		texts: make([]string, 0, few), classes: make([]class, 0, few),
	}
}

// Observed says that denials of the service's own rules do not hold.
func (t *Table) Observed() bool { return t.observed }

// Service is the name of the service the table decides for.
func (t *Table) Service() string { return t.service }

// Protocol is what the service speaks.
func (t *Table) Protocol() Protocol { return t.protocol }

// Paths is how the service's paths are to be normalised.
func (t *Table) Paths() PathOptions { return t.paths }

// Revision is the revision of the set the table was compiled from.
func (t *Table) Revision() uint64 { return t.revision }

// Reads is the facts that conditions of the table read: what else a request has
// need not be gathered.
func (t *Table) Reads() Reads {
	if t == nil {
		return 0
	}
	return t.reads
}

// enter puts an action of a rule below a class's root.
func (t *Table) enter(root uint32, a *compiled, r numbered) {
	e := entry{mask: a.mask, name: r.name, length: r.length}
	d := detail{rule: r.number, text: a.text, when: r.when, except: r.except}
	t.actions.insert(root, a.path, e, d, func(i uint32) bool {
		there, more := &t.actions.entries[i], &t.actions.details[i]
		if more.except != 0 && more.except != d.except || more.when != 0 && more.when != d.when {
			return false
		}
		if a.protocol == TCP {
			return there.mask == 0 || there.mask == e.mask
		}
		return there.mask&e.mask == e.mask
	})
}

// ruleOf is the name of the rule an entry is of.
func (t *Table) ruleOf(entry uint32) string {
	e := &t.actions.entries[entry]
	return t.names[e.name : e.name+uint32(e.length)]
}

// bind gives b to the IDs of a trust domain that path matches.
func (t *Table) bind(td spiffe.TrustDomain, path []part, b binding) {
	root, ok := t.domains[td]
	if !ok {
		root = t.sources.root()
		t.domains[td] = root
	}
	d := detail{rule: b.number}
	if b.class {
		d.text = 1
	}
	t.sources.insert(root, path, entry{mask: 1}, d, func(there uint32) bool { return t.sources.details[there] == d })
}

// Peer resolves who an authenticated peer is to the rules of this table, once
// per connection and table. The zero ID is an anonymous peer.
func (t *Table) Peer(id spiffe.ID) Peer {
	if id.IsZero() {
		return t.Anonymous()
	}
	p := newResolved(t)
	p.name(id)
	if t == nil {
		return Peer{p}
	}
	bindings := slices.Clone(t.everyone)
	if root, ok := t.domains[id.TrustDomain()]; ok && id.Path() != "" {
		var room [32]uint32
		found := gathering{entries: room[:]}
		q := query{path: id.Path(), mask: 1, all: &found}
		t.sources.walk(&q, root, 1)
		if n := found.n; n > len(room) {
			found = gathering{entries: make([]uint32, n)}
			t.sources.walk(&q, root, 1)
		}
		for _, i := range found.entries[:found.n] {
			d := t.sources.details[i]
			bindings = append(bindings, binding{class: d.text == 1, number: d.rule})
		}
	}
	t.resolve(p, bindings)
	return Peer{p}
}

// Anonymous is a peer that showed no identity. Only rules that say anonymous
// bind it.
func (t *Table) Anonymous() Peer {
	p := newResolved(t)
	p.anonymous = true
	if t != nil {
		t.resolve(p, t.anonymous)
	}
	return Peer{p}
}

func newResolved(t *Table) *resolved {
	p := &resolved{table: t}
	p.roots = p.room[:0]
	return p
}

// name says whose p is.
func (p *resolved) name(id spiffe.ID) {
	p.id, p.cuts = id, [len(p.cuts)]uint16{}
	path := id.Path()
	if strings.Count(path, "/") > maxClaims {
		return
	}
	for i, end := 0, 0; i < len(p.cuts) && end < len(path); i++ {
		begin := end + 1
		if end = strings.IndexByte(path[begin:], '/') + begin; end < begin {
			end = len(path)
		}
		p.cuts[i] = uint16(end) // an ID has at most 2048 bytes
	}
}

// resolve orders the peer's classes by tier and gathers its exceptions.
func (t *Table) resolve(p *resolved, bindings []binding) {
	for _, b := range bindings {
		if b.class {
			c := t.classes[b.number]
			if c.tier == tierBoundary {
				p.enter(t, c.root)
				continue
			}
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
	p.denies, p.allows, p.shadows = uint32(p.first(tierDeny)), uint32(p.first(tierAllow)), uint32(p.first(tierShadowGuardrail))
	p.release(t)
}

// first is the index of the first root of a tier, or of one behind it.
func (p *resolved) first(at tier) int {
	for i, r := range p.roots {
		if r.tier >= at {
			return i
		}
	}
	return len(p.roots)
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
