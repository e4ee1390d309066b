package policy

import (
	"slices"
	"strings"

	"github.com/kith-id/kith/spiffe"
)

// Since is what differs between two books of which one came of the other. It finds
// that out by what they share, without looking into rules that are the very same.
type Since struct {
	now, before *Book

	services map[string]bool // those that are not the very same
	wide     []*Rule         // rules to a pattern that are on one side only
}

// Since compares b with a book of before. Neither may be written to while what it
// gives is in use.
func (b *Book) Since(before *Book) *Since {
	s := &Since{now: b, before: before, services: make(map[string]bool)}
	if b.edition != before.edition {
		for name, service := range b.services.All() {
			if old, there := before.services.Get(name); !there || service != old && !service.same(*old) {
				s.services[name] = true
			}
		}
		for name := range before.services.Keys() {
			if !b.services.Has(name) {
				s.services[name] = true
			}
		}
	}
	for _, sides := range [][2][]*Rule{{b.wide, before.wide}, {before.wide, b.wide}} {
		for _, r := range sides[0] {
			if i, found := slices.BinarySearchFunc(sides[1], r.Name, ruleOrder); !found || sides[1][i] != r {
				s.wide = append(s.wide, r)
			}
		}
	}
	return s
}

// Touches says whether the table of a service may differ: where it says no, both
// books compile to tables that decide alike.
func (s *Since) Touches(service string) bool {
	svc, there := s.now.services.Get(service)
	if s.now.domain != s.before.domain || s.services[service] || !there {
		return true
	}
	rules, _ := s.now.to.Get(service)
	former, _ := s.before.to.Get(service)
	if !slices.Equal(rules, former) {
		return true
	}
	if len(s.wide) == 0 && len(s.services) == 0 {
		return false
	}
	ids, err := svc.IDs(s.now.domain)
	return err != nil || slices.ContainsFunc(s.wide, func(r *Rule) bool { return s.binds(r, service, ids) }) ||
		slices.ContainsFunc(svc.Forwarded.By, s.differs) || slices.ContainsFunc(rules, s.names) ||
		slices.ContainsFunc(s.now.wide, func(r *Rule) bool { return s.names(r) && s.binds(r, service, ids) })
}

func (s *Since) differs(name string) bool { return s.services[name] }

// names says whether a rule names a service that differs. Nothing but a name is a key.
func (s *Since) names(r *Rule) bool {
	return len(s.services) > 0 && (slices.ContainsFunc(r.From, s.differs) || slices.ContainsFunc(r.Except, s.differs))
}

// binds takes what cannot be read for bound: Compile must see it and refuse.
func (s *Since) binds(r *Rule, service string, ids []spiffe.ID) bool {
	bound, err := r.binds(service, ids, s.now.domain)
	return bound || err != nil
}

// ReadTokens says whether a condition of the rules to some services speaks of user
// tokens. Where none does nobody needs to fetch keys.
func (b *Book) ReadTokens(services ...string) bool {
	reads := func(r *Rule) bool { return strings.Contains(r.When, "jwt") }
	for _, name := range services {
		if rules, _ := b.to.Get(name); slices.ContainsFunc(rules, reads) {
			return true
		}
	}
	for _, r := range b.wide {
		if !reads(r) {
			continue
		}
		for _, name := range services {
			svc, _ := b.services.Get(name)
			ids, _ := svc.IDs(b.domain) // Compile reports it
			if bound, err := r.binds(name, ids, b.domain); bound || err != nil {
				return true
			}
		}
	}
	return false
}
