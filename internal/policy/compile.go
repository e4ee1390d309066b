package policy

import (
	"slices"

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
		return nil, unknownService(service)
	}
	return compile(origin{domain: set.TrustDomain, revision: set.Revision, identities: set.identities, rulesTo: set.rulesTo}, service, svc)
}

func unknownService(name string) error {
	return fault.NotFoundf("service %q does not exist", clip(name))
}

// origin is what a table is compiled from.
type origin struct {
	domain   spiffe.TrustDomain
	revision uint64
	// identities are those that a service's name stands for; ok is false where there
	// is none of that name.
	identities func(service string) (ids []string, ok bool)
	// rulesTo are the names of the rules that bind a service, whose identities are
	// ids, sorted, and the rule of each, which is good until the next is asked for.
	rulesTo func(service string, ids []spiffe.ID) (names []string, rule func(i int) *Rule, err error)
}

func compile(from origin, service string, svc Service) (*Table, error) {
	if svc.Name != service {
		return nil, fault.Invalidf("service %q is kept as %q", clip(svc.Name), clip(service))
	}
	if from.domain.IsZero() {
		return nil, fault.Invalidf("trust domain is empty")
	}
	if err := svc.Validate(); err != nil {
		return nil, err
	}
	ids, err := svc.IDs(from.domain)
	if err != nil {
		return nil, err
	}
	names, ruleAt, err := from.rulesTo(service, ids)
	if err != nil {
		return nil, err
	}
	c := newCompiler(from, svc, names)
	if c.table.forwarder, err = c.list(".by", svc.Forwarded.By); err != nil {
		return nil, fault.Invalidf("services.%s.forwarded%w", clip(service), err)
	}
	c.table.hops = max(1, svc.Forwarded.Hops)
	if c.table.asked, err = svc.externals(); err != nil {
		return nil, err
	}
	at := uint32(0)
	for i, name := range names {
		if err := c.rule(ruleAt(i), numbered{number: uint32(i), name: at, length: uint8(len(name))}); err != nil {
			return nil, fault.Invalidf("rules.%s%w", clip(name), err)
		}
		at += uint32(len(name))
	}
	c.table.actions.seal()
	c.table.sources.seal()
	c.table.texts, c.table.classes = fitted(c.table.texts), fitted(c.table.classes)
	return c.table, nil
}

// identities is that of an origin.
func (s Set) identities(service string) ([]string, bool) {
	svc, ok := s.Services[service]
	return svc.Identities, ok
}

// rulesTo is that of an origin.
func (s Set) rulesTo(service string, ids []spiffe.ID) ([]string, func(i int) *Rule, error) {
	names := make([]string, 0, len(s.Rules))
	for name, r := range s.Rules {
		if r.Name != name {
			return nil, nil, fault.Invalidf("rule %q is kept as %q", clip(r.Name), clip(name))
		}
		if r.To != service {
			bound, err := r.binds(service, ids, s.TrustDomain)
			if err != nil {
				return nil, nil, fault.Invalidf("rules.%s.to: %w", clip(name), err)
			}
			if !bound {
				continue
			}
		}
		names = append(names, name)
	}
	slices.Sort(names)
	var rule Rule
	return names, func(i int) *Rule {
		rule = s.Rules[names[i]]
		return &rule
	}, nil
}

// compiler fills one table.
type compiler struct {
	from    origin
	svc     Service
	table   *Table
	actions []compiled // by the number of their text
	texts   lookup     // the table's texts, from 1
	classes lookup     // the table's classes, from 1
	room    actionRoom // for what parsing makes
	excepts map[string]uint32
	whens   map[string]uint32 // conditions, by text
	path    []part            // of the identity at hand
}

// some is how much is made room for at once: mostly enough for one service, and
// next to nothing where it is not.
const some = 128

func newCompiler(from origin, svc Service, names []string) *compiler {
	few := min(len(names), some)
	return &compiler{
		from:    from,
		room:    actionRoom{piece: min(4*len(names), some)},
		svc:     svc,
		table:   newTable(from, svc, names),
		actions: make([]compiled, 0, few),
		texts:   newLookup(few),
		classes: newLookup(few),
		excepts: map[string]uint32{},
		whens:   map[string]uint32{},
	}
}

// hash is that of a text in the compiler's lookups.
func (c *compiler) hash(text string) uint32 {
	secret := &c.table.actions.children
	return secret.home(uint32(len(text)), keyOf(secret, text))
}

// compiled is what entering an action needs of it.
type compiled struct {
	path     []part
	mask     uint32
	text     uint32 // its number
	protocol Protocol
}

// port is a TCP action's.
func (a compiled) port() uint16 { return uint16(a.mask) }

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
	if n.except, err = c.list(".except", r.Except); err != nil {
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
		if a.protocol.carriesRequests() != c.svc.Protocol.carriesRequests() {
			if r.ToOne() {
				whole, _ := ParseAction(text) // as c.action has
				return fault.Invalidf("%s: %w", index(field, i), misfit(whole, c.svc))
			}
			continue
		}
		if err := c.supports(n.when, a); err != nil {
			return fault.Invalidf("%s: %w", index(field, i), err)
		}
		fitting++
		if at == tierBoundary {
			c.table.enter(c.table.boundaries[len(c.table.boundaries)-1].root, &a, n)
			continue
		}
		for j, from := range r.From {
			root, err := c.class(at, from)
			if err != nil {
				return fault.Invalidf("%s: %w", index(".from", j), err)
			}
			c.table.enter(root, &a, n)
		}
	}
	if fitting == 0 {
		return fault.Invalidf("%s: nothing in it can be enforced on %s, a %s service", field, c.svc.Name, c.svc.Protocol)
	}
	return nil
}

// supports refuses a condition that an enforcement point of connections knows
// nothing about.
func (c *compiler) supports(when uint32, a compiled) error {
	if when == 0 {
		return nil
	}
	return c.table.conditions[when].fits(Action{protocol: a.protocol, port: a.port()})
}

// action parses and numbers an action's text once.
func (c *compiler) action(text string) (compiled, error) {
	hash := c.hash(text)
	if n := c.texts.find(hash, func(n uint32) bool { return c.table.texts[n-1] == text }); n != 0 {
		return c.actions[n-1], nil
	}
	parsed, err := parseAction(text, &c.room)
	if err != nil {
		return compiled{}, err
	}
	a := compiled{path: parsed.path, text: uint32(len(c.table.texts)), protocol: parsed.protocol}
	switch {
	case parsed.protocol == TCP:
		a.mask = uint32(parsed.port)
	case parsed.methods == nil:
		a.mask = allMethods
	}
	for _, m := range parsed.methods {
		bit, err := c.method(m)
		if err != nil {
			return compiled{}, err
		}
		a.mask |= bit
	}
	c.table.texts, c.actions = append(c.table.texts, text), append(c.actions, a)
	c.texts.add(hash, uint32(len(c.actions)))
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
