package policy

import (
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// Set is the applied state decisions are made from, keyed by name. It is a value:
// what has been handed to Validate or Compile must not change afterwards.
type Set struct {
	TrustDomain spiffe.TrustDomain
	Revision    uint64
	Services    map[string]Service
	Rules       map[string]Rule
	Teams       map[string]Team // who may change which services; decisions do not read them
	Unprovable  bool            // the server issues no WIT-SVIDs; for Lint alone
}

// Validate reports every fault of the set at once, each with its path and, for a
// slip, the nearest name, as one Invalid error; and warnings about rules that are
// sound but do not do what they seem to. A service that a rule still names cannot
// be left out of the set.
func (s Set) Validate() (warnings []string, err error) {
	return s.validateAfter(func(string) (Service, bool) { return Service{}, false })
}

// validateAfter is Validate of a set that came of another one, of whose services
// each is sound by itself: those that are the very same are not looked at again.
func (s Set) validateAfter(before func(name string) (Service, bool)) (warnings []string, err error) {
	v := newValidation(s)
	if err := v.run(before); err != nil {
		return nil, err
	}
	return warningsOf(v.findings(false)), nil
}

func newValidation(s Set) *validation {
	return &validation{
		set: s, ids: map[string][]spiffe.ID{}, actions: map[string]Action{}, conditions: map[string]*condition{}, methods: map[string][]string{},
	}
}

// run looks for faults, and finds them all.
func (v *validation) run(before func(name string) (Service, bool)) error {
	s := v.set
	if s.TrustDomain.IsZero() {
		v.faults.add("trust_domain", fault.Invalidf("empty"))
		return v.faults.err()
	}
	for _, name := range s.toCheck(before) {
		svc := s.Services[name]
		if svc.Name != name {
			v.faults.add("services."+name, fault.Invalidf("is kept under another name than its own, %q", clip(svc.Name)))
		}
		svc.check(&v.faults)
		svc.checkLength(s.TrustDomain, &v.faults)
		v.sources("services."+name+".forwarded.by", svc.Forwarded.By)
		v.teamOf(svc)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Teams)) {
		v.team(name, s.Teams[name])
	}
	for _, name := range slices.Sorted(maps.Keys(s.Rules)) {
		v.rule(name, s.Rules[name])
	}
	return v.faults.err()
}

// toCheck is the names of the services, sorted, that before says nothing about, or
// that name what may be gone.
func (s Set) toCheck(before func(name string) (Service, bool)) []string {
	var names []string
	for name, svc := range s.Services {
		old, there := before(name)
		_, team := s.Teams[svc.Team]
		if !there || !svc.same(old) || len(svc.Forwarded.By) > 0 || svc.Team != "" && !team {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Slice is what the enforcement points of the named services need: these
// services and who forwards to them, the rules to them, and the services those
// rules name.
func (s Set) Slice(services ...string) Set {
	out := Set{TrustDomain: s.TrustDomain, Revision: s.Revision, Services: map[string]Service{}, Rules: map[string]Rule{}}
	keep := func(name string) {
		if svc, ok := s.Services[name]; ok {
			out.Services[name] = svc
		}
	}
	for _, name := range services {
		keep(name)
	}
	ids := map[string][]spiffe.ID{}
	for name, svc := range out.Services {
		ids[name], _ = svc.IDs(s.TrustDomain) // Compile reports it
	}
	for name, r := range s.Rules {
		for svc := range ids {
			// What cannot be read goes along: Compile must see it and refuse.
			if bound, err := r.binds(svc, ids[svc], s.TrustDomain); bound || err != nil {
				out.Rules[name] = r
				break
			}
		}
	}
	for _, r := range out.Rules {
		for _, name := range r.services() {
			keep(name)
		}
	}
	for _, name := range services {
		for _, by := range out.Services[name].Forwarded.By {
			keep(by)
		}
	}
	return out
}

// validation is one run of Set.Validate.
type validation struct {
	set        Set
	sorted     []string               // names of the services, once somebody asked
	ids        map[string][]spiffe.ID // of services, once somebody asked
	actions    map[string]Action      // parsed so far, by text
	conditions map[string]*condition  // compiled so far, by text
	methods    map[string][]string    // by service: those beyond the standard ones that rules name
	faults     faults
}

// names are the services', sorted.
func (v *validation) names() []string {
	if v.sorted == nil {
		v.sorted = slices.Sorted(maps.Keys(v.set.Services))
	}
	return v.sorted
}

// idsOf are the identities of a service; what is wrong with one is reported
// elsewhere.
func (v *validation) idsOf(name string) []spiffe.ID {
	ids, known := v.ids[name]
	if !known {
		ids, _ = v.set.Services[name].IDs(v.set.TrustDomain)
		v.ids[name] = ids
	}
	return ids
}

func (v *validation) rule(name string, r Rule) {
	at := "rules." + name
	if err := ValidateName(name); err != nil {
		v.faults.add("rules", err)
	}
	if r.Name != name {
		v.faults.add(at, fault.Invalidf("is kept under another name than its own, %q", clip(r.Name)))
	}
	for _, w := range r.shape() {
		v.faults.add(at+w.field, w.err)
	}
	v.faults.bound(at+".from", len(r.From), maxFrom)
	v.faults.bound(at+".except", len(r.Except), maxFrom)
	v.faults.bound(at+".allow", len(r.Allow), maxActions)
	v.faults.bound(at+".deny", len(r.Deny), maxActions)
	v.faults.bound(at+".boundary", len(r.Boundary), maxActions)
	v.faults.owner(at, r.Owner)
	v.sources(at+".from", r.From)
	v.sources(at+".except", r.Except)
	targets := v.targets(at+".to", r)
	when := v.condition(at+".when", r)
	v.supports(at+".allow", r.Allow, when)
	v.supports(at+".deny", r.Deny, when)
	v.supports(at+".boundary", r.Boundary, when)
	v.ruleActions(at+".allow", r, r.Allow, targets)
	v.ruleActions(at+".deny", r, r.Deny, targets)
	v.ruleActions(at+".boundary", r, r.Boundary, targets)
}

func (v *validation) sources(at string, list []string) {
	for i, s := range list {
		src, err := parseSource(s)
		if err == nil && src.kind == named {
			err = v.known(s)
		}
		if err != nil {
			v.faults.add(index(at, i), err)
		}
	}
}

// condition is the rule's, compiled once per text; nil if it has none, or none
// that is sound.
func (v *validation) condition(at string, r Rule) *condition {
	if r.When == "" {
		return nil
	}
	if c, ok := v.conditions[r.When]; ok {
		return c
	}
	c, err := compileCondition(r.When)
	if err != nil {
		v.faults.add(at, err)
		return nil
	}
	v.conditions[r.When] = c
	return c
}

// supports reports actions that cannot be enforced under a condition.
func (v *validation) supports(at string, actions []string, when *condition) {
	if when == nil {
		return
	}
	for i, text := range actions {
		if a, err := v.action(text); err == nil {
			if err := when.fits(a); err != nil {
				v.faults.add(index(at, i), err)
			}
		}
	}
}

// known is nil if there is a service of this name.
func (v *validation) known(name string) error {
	if _, ok := v.set.Services[name]; ok {
		return nil
	}
	err := fault.Invalidf("unknown service %q", clip(name))
	if near := fault.Nearest(name, v.names()); near != "" {
		return fault.Hint(err, "did you mean %s?", near)
	}
	return err
}

// targets are the names of the services the rule binds.
func (v *validation) targets(at string, r Rule) []string {
	to, err := r.target()
	if err != nil {
		v.faults.add(at, err)
		return nil
	}
	if to.kind == named {
		if err := v.known(r.To); err != nil {
			v.faults.add(at, err)
			return nil
		}
		return []string{r.To}
	}
	var bound []string
	for _, name := range v.names() {
		if ok, _ := r.binds(name, v.idsOf(name), v.set.TrustDomain); ok {
			bound = append(bound, name)
		}
	}
	if len(bound) == 0 && to.literalID() {
		v.faults.add(at, fault.Invalidf("no service has the identity %q", clip(r.To)))
	}
	return bound
}

// ruleActions checks that every action can be read, and enforced where the rule
// binds: all of them on a service it names, at least one on each of many.
func (v *validation) ruleActions(at string, r Rule, actions []string, targets []string) {
	parsed := make([]Action, 0, len(actions))
	for i, text := range actions {
		a, err := v.action(text)
		if err != nil {
			v.faults.add(index(at, i), err)
			continue
		}
		parsed = append(parsed, a)
		v.countMethods(index(at, i), a, targets)
		if svc := v.set.Services[r.To]; len(targets) == 1 && r.ToOne() && !a.fits(svc.Protocol) {
			v.faults.add(index(at, i), misfit(a, svc))
		}
	}
	if r.ToOne() || len(parsed) < len(actions) || len(actions) == 0 {
		return
	}
	for _, name := range targets {
		svc := v.set.Services[name]
		if !slices.ContainsFunc(parsed, func(a Action) bool { return a.fits(svc.Protocol) }) {
			v.faults.add(at, misfit(parsed[0], svc))
		}
	}
}

// countMethods holds each service to the methods its table has room for.
func (v *validation) countMethods(at string, a Action, targets []string) {
	for _, m := range a.methods {
		if _, standard := methodBit(m); standard {
			continue
		}
		for _, name := range targets {
			named := v.methods[name]
			switch {
			case slices.Contains(named, m):
			case len(named) == maxMethods:
				v.faults.add(at, tooManyMethods(m, name))
			default:
				v.methods[name] = append(named, m)
			}
		}
	}
}

// misfit says that no enforcement point of svc could enforce a.
func misfit(a Action, svc Service) error {
	err := fault.Invalidf("%q cannot be enforced: %s is a %s service", a.String(), svc.Name, svc.Protocol)
	if svc.Protocol == TCP {
		return fault.Hint(err, `say "tcp", or give %s protocol: http`, svc.Name)
	}
	return fault.Hint(err, `say "* /{**}" for every request, or give %s protocol: tcp`, svc.Name)
}

// action is ParseAction, once per text.
func (v *validation) action(text string) (Action, error) {
	if a, ok := v.actions[text]; ok {
		return a, nil
	}
	a, err := ParseAction(text)
	if err == nil {
		v.actions[text] = a
	}
	return a, err
}
