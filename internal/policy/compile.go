package policy

import (
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const (
	allMethods   = ^uint32(0)
	otherMethods = 1 << 31 // methods no rule names
	knownMethods = 9
	maxMethods   = 31 - knownMethods // others that the rules to one service can name
)

// methodBit numbers the methods of RFC 9110 and PATCH.
func methodBit(m string) (bit uint32, ok bool) {
	switch m {
	case "GET":
		return 1 << 0, true
	case "POST":
		return 1 << 1, true
	case "PUT":
		return 1 << 2, true
	case "DELETE":
		return 1 << 3, true
	case "HEAD":
		return 1 << 4, true
	case "PATCH":
		return 1 << 5, true
	case "OPTIONS":
		return 1 << 6, true
	case "CONNECT":
		return 1 << 7, true
	case "TRACE":
		return 1 << 8, true
	default:
		return 0, false
	}
}

// Compile makes the table of one service out of the rules to it. Whatever it
// cannot understand or enforce is an error: the caller keeps what it has, or
// denies.
func Compile(set Set, service string) (*Table, error) {
	svc, ok := set.Services[service]
	if !ok {
		return nil, fault.NotFoundf("service %q does not exist", clip(service))
	}
	if svc.Name != service {
		return nil, fault.Invalidf("service %q is kept as %q", clip(svc.Name), clip(service))
	}
	if set.TrustDomain.IsZero() {
		return nil, fault.Invalidf("trust domain is empty")
	}
	if err := svc.Validate(); err != nil {
		return nil, err
	}
	ids, err := svc.IDs(set.TrustDomain)
	if err != nil {
		return nil, err
	}
	names, err := rulesTo(set, service, ids)
	if err != nil {
		return nil, err
	}
	c := compiler{
		set:     set,
		svc:     svc,
		table:   newTable(set, svc, names),
		actions: make(map[string]*compiled, len(names)),
		classes: make(map[classKey]uint32, min(len(names), 128)),
		excepts: make(map[string]uint32),
		whens:   make(map[string]uint32),
	}
	if c.table.forwarder, err = c.except(svc.Forwarded.By); err != nil {
		return nil, fault.Invalidf("services.%s.forwarded%w", clip(service), err)
	}
	c.table.hops = max(1, svc.Forwarded.Hops)
	if c.table.asked, err = svc.externals(); err != nil {
		return nil, err
	}
	at := uint32(0)
	for i, name := range names {
		r := set.Rules[name]
		if err := c.rule(&r, numbered{number: uint32(i), name: at, length: uint8(len(name))}); err != nil {
			return nil, fault.Invalidf("rules.%s%w", clip(name), err)
		}
		at += uint32(len(name))
	}
	c.table.actions.seal()
	c.table.sources.seal()
	c.table.texts = fitted(c.table.texts)
	return c.table, nil
}

// rulesTo are the names of the rules that bind the service, sorted.
func rulesTo(set Set, service string, ids []spiffe.ID) ([]string, error) {
	names := make([]string, 0, len(set.Rules))
	for name, r := range set.Rules {
		if r.Name != name {
			return nil, fault.Invalidf("rule %q is kept as %q", clip(r.Name), clip(name))
		}
		if r.To != service {
			bound, err := r.binds(service, ids, set.TrustDomain)
			if err != nil {
				return nil, fault.Invalidf("rules.%s.to: %w", clip(name), err)
			}
			if !bound {
				continue
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return fitted(names), nil
}

// compiler fills one table.
type compiler struct {
	set     Set
	svc     Service
	table   *Table
	actions map[string]*compiled
	classes map[classKey]uint32 // roots
	excepts map[string]uint32
	whens   map[string]uint32 // conditions, by text
}

// compiled is an action's text, parsed once.
type compiled struct {
	Action
	mask uint32
	text uint32
}

type classKey struct {
	tier tier
	from string
}

// numbered is a rule as entries name it.
type numbered struct {
	number       uint32
	name         uint32 // where its name begins
	length       uint8  // of that
	when, except uint32
}

func (c *compiler) rule(r *Rule, n numbered) error {
	t := c.table
	allows, denies := tierAllow, tierDeny
	if r.Guardrail {
		denies = tierGuardrail
	}
	if r.Mode == Shadow {
		allows, denies, t.shadows = allows+shadowTiers, denies+shadowTiers, true
	}
	if wrong := r.shape(); wrong != nil {
		return at(wrong[0].field, wrong[0].err)
	}
	var err error
	if n.except, err = c.except(r.Except); err != nil {
		return err
	}
	if n.when, err = c.when(r.When); err != nil {
		return at(".when", err)
	}
	if len(r.Boundary) > 0 {
		return c.boundary(r, n)
	}
	if err := c.enter(r, n, ".allow", allows, r.Allow); err != nil {
		return err
	}
	return c.enter(r, n, ".deny", denies, r.Deny)
}

// when is the number of a condition, 0 for none. Rules that spell it the same
// share it.
func (c *compiler) when(text string) (uint32, error) {
	if text == "" {
		return 0, nil
	}
	if number, ok := c.whens[text]; ok {
		return number, nil
	}
	condition, err := compileCondition(text)
	if err != nil {
		return 0, err
	}
	if len(c.table.conditions) == 0 {
		c.table.conditions = append(c.table.conditions, nil)
	}
	number := uint32(len(c.table.conditions))
	c.table.conditions = append(c.table.conditions, condition)
	c.table.reads |= condition.reads
	c.whens[text] = number
	return number, nil
}

// enter puts one list of actions under each source of the rule.
func (c *compiler) enter(r *Rule, n numbered, field string, at tier, list []string) error {
	if len(list) == 0 {
		return nil
	}
	fitting := 0
	for i, text := range list {
		a, err := c.action(text)
		if err != nil {
			return fault.Invalidf("%s: %w", index(field, i), err)
		}
		if !a.fits(c.svc.Protocol) {
			if r.ToOne() {
				return fault.Invalidf("%s: %w", index(field, i), misfit(a.Action, c.svc))
			}
			continue
		}
		if err := c.supports(n.when, a.Action); err != nil {
			return fault.Invalidf("%s: %w", index(field, i), err)
		}
		fitting++
		if at == tierBoundary {
			c.table.enter(c.table.boundaries[len(c.table.boundaries)-1].root, a, n)
			continue
		}
		for j, from := range r.From {
			root, err := c.class(at, from)
			if err != nil {
				return fault.Invalidf("%s: %w", index(".from", j), err)
			}
			c.table.enter(root, a, n)
		}
	}
	if fitting == 0 {
		return fault.Invalidf("%s: nothing in it can be enforced on %s, a %s service", field, c.svc.Name, c.svc.Protocol)
	}
	return nil
}

// supports refuses a condition that an enforcement point of connections knows
// nothing about.
func (c *compiler) supports(when uint32, a Action) error {
	if when == 0 {
		return nil
	}
	return c.table.conditions[when].fits(a)
}

// action parses and numbers an action's text once.
func (c *compiler) action(text string) (*compiled, error) {
	if a, ok := c.actions[text]; ok {
		return a, nil
	}
	parsed, err := ParseAction(text)
	if err != nil {
		return nil, err
	}
	a := &compiled{Action: parsed, text: uint32(len(c.table.texts))}
	switch {
	case parsed.protocol == TCP:
		a.mask = uint32(parsed.port)
	case parsed.methods == nil:
		a.mask = allMethods
	}
	for _, m := range parsed.methods {
		bit, err := c.method(m)
		if err != nil {
			return nil, err
		}
		a.mask |= bit
	}
	c.table.texts = append(c.table.texts, text)
	c.actions[text] = a
	return a, nil
}

func (c *compiler) method(m string) (uint32, error) {
	if bit, ok := methodBit(m); ok {
		return bit, nil
	}
	i := slices.Index(c.table.methods, m)
	if i < 0 {
		if i = len(c.table.methods); i == maxMethods {
			return 0, tooManyMethods(m, c.svc.Name)
		}
		c.table.methods = append(c.table.methods, m)
	}
	return 1 << (knownMethods + i), nil
}

func tooManyMethods(m, service string) error {
	return fault.Hint(fault.Invalidf("method %s: rules to %s name %d methods beyond the standard ones already", clip(m), service, maxMethods), "* is any method")
}

// class is the root of the rules of one tier that a source's peers are under.
func (c *compiler) class(at tier, from string) (uint32, error) {
	key := classKey{at, from}
	if root, ok := c.classes[key]; ok {
		return root, nil
	}
	t := c.table
	root := t.actions.root()
	number := uint32(len(t.classes))
	t.classes = append(t.classes, class{tier: at, root: root, from: from})
	c.classes[key] = root
	return root, c.resolve(from, binding{class: true, number: number, denies: !at.gives()})
}

// except is the number of an except list, 0 for the empty one.
func (c *compiler) except(list []string) (uint32, error) {
	if len(list) == 0 {
		return 0, nil
	}
	key := strings.Join(list, "\n")
	if number, ok := c.excepts[key]; ok {
		return number, nil
	}
	c.table.lists++
	number := uint32(c.table.lists)
	c.excepts[key] = number
	for i, s := range list {
		if err := c.resolve(s, binding{number: number}); err != nil {
			return 0, fault.Invalidf("%s: %w", index(".except", i), err)
		}
	}
	return number, nil
}

// binding is what a peer that a source matches gets: a class, or freedom from
// the rules of an except list.
type binding struct {
	class  bool
	number uint32
	denies bool
}

// resolve makes the peers that s names get b. A service's name stands for the
// identities it has now.
func (c *compiler) resolve(s string, b binding) error {
	src, err := parseSource(s)
	if err != nil {
		return err
	}
	t, own := c.table, c.set.TrustDomain
	switch src.kind {
	case anonymous:
		t.anonymous = append(t.anonymous, b)
	case anyPeer:
		if b.denies {
			t.everyone = append(t.everyone, b)
			return nil
		}
		t.bind(own, []part{{kind: rest}}, b)
	case named:
		svc, ok := c.set.Services[src.text]
		if !ok {
			return fault.Invalidf("unknown service %q", clip(src.text))
		}
		ids, err := svc.IDs(own)
		if err != nil {
			return fault.Invalidf("service %q: %w", clip(src.text), err)
		}
		for _, id := range ids {
			t.bind(id.TrustDomain(), identityParts(id), b)
		}
	case identities:
		td := src.td
		if td.IsZero() {
			td = own
		}
		t.bind(td, src.path, b)
	default:
		return fault.Invalidf("source %q is of an unknown kind", clip(s))
	}
	return nil
}
