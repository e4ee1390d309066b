package policy

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/fork"
	"github.com/kith-id/kith/spiffe"
)

// Book is a Set that is kept through changes: a copy of it shares what stays, and
// what is asked of it about some services costs what there is of these, not what
// there is. Nobody may write to it while others read.
type Book struct {
	Revision uint64

	domain   spiffe.TrustDomain
	services *fork.Map[string, *Service] // replaced, not changed
	rules    *fork.Map[string, *Rule]
	to       *fork.Map[string, []*Rule] // by the service they name in to, in the order of names; replaced, not changed
	wide     []*Rule                    // those that bind by pattern; likewise
	teams    map[string]Team            // replaced, not changed
	sound    *atomic.Bool               // was checked as a whole once; common to all forks
	edition  *edition                   // of the services: two books with the same have the same ones
}

// edition is told from others by where it lies.
type edition struct{ _ byte }

// NewBook is the empty policy of a trust domain.
func NewBook(td spiffe.TrustDomain) *Book {
	return &Book{
		domain: td, services: new(fork.Map[string, *Service]), rules: new(fork.Map[string, *Rule]),
		to: new(fork.Map[string, []*Rule]), sound: new(atomic.Bool), edition: new(edition),
	}
}

// Fork is a copy to change.
func (b *Book) Fork() *Book {
	next := *b
	next.services, next.rules, next.to = b.services.Fork(), b.rules.Fork(), b.to.Fork()
	return &next
}

// TrustDomain is the one of IDs that say none.
func (b *Book) TrustDomain() spiffe.TrustDomain { return b.domain }

// Service is the one of a name, if there is one.
func (b *Book) Service(name string) (Service, bool) {
	if s, ok := b.services.Get(name); ok {
		return *s, true
	}
	return Service{}, false
}

// Rule is the one of a name, if there is one.
func (b *Book) Rule(name string) (Rule, bool) {
	if r, ok := b.rules.Get(name); ok {
		return *r, true
	}
	return Rule{}, false
}

// ServiceNames are the names of all services, sorted.
func (b *Book) ServiceNames() []string { return slices.Sorted(b.services.Keys()) }

// RuleNames are the names of all rules, sorted.
func (b *Book) RuleNames() []string { return slices.Sorted(b.rules.Keys()) }

// Services yields all services, in no order.
func (b *Book) Services() iter.Seq2[string, Service] { return values(b.services) }

// Rules yields all rules, in no order.
func (b *Book) Rules() iter.Seq2[string, Rule] { return values(b.rules) }

func values[V any](m *fork.Map[string, *V]) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for name, v := range m.All() {
			if !yield(name, *v) {
				return
			}
		}
	}
}

// Count is how many services and rules there are.
func (b *Book) Count() (services, rules int) { return b.services.Len(), b.rules.Len() }

// PutService makes s the service of its name.
func (b *Book) PutService(s Service) {
	b.services.Put(s.Name, &s)
	b.edition = new(edition)
}

// RemoveService forgets a service.
func (b *Book) RemoveService(name string) {
	b.services.Delete(name)
	b.edition = new(edition)
}

// PutRule makes r the rule of its name.
func (b *Book) PutRule(r Rule) {
	b.RemoveRule(r.Name)
	b.rules.Put(r.Name, &r)
	if !r.ToOne() {
		b.wide = with(b.wide, &r)
		return
	}
	there, _ := b.to.Get(r.To)
	b.to.Put(r.To, with(there, &r))
}

// RemoveRule forgets a rule.
func (b *Book) RemoveRule(name string) {
	r, ok := b.rules.Get(name)
	if !ok {
		return
	}
	b.rules.Delete(name)
	if !r.ToOne() {
		b.wide = without(b.wide, r)
		return
	}
	there, _ := b.to.Get(r.To)
	if there = without(there, r); len(there) == 0 {
		b.to.Delete(r.To)
		return
	}
	b.to.Put(r.To, there)
}

func ruleOrder(a *Rule, name string) int { return strings.Compare(a.Name, name) }

func with(list []*Rule, r *Rule) []*Rule {
	i, _ := slices.BinarySearchFunc(list, r.Name, ruleOrder)
	return slices.Concat(list[:i], []*Rule{r}, list[i:])
}

func without(list []*Rule, r *Rule) []*Rule {
	i, found := slices.BinarySearchFunc(list, r.Name, ruleOrder)
	if !found {
		return list
	}
	return slices.Concat(list[:i], list[i+1:])
}

// Set is the whole policy.
func (b *Book) Set() Set {
	out := b.empty()
	out.Services, out.Rules = make(map[string]Service, b.services.Len()), make(map[string]Rule, b.rules.Len())
	maps.Insert(out.Services, b.Services())
	maps.Insert(out.Rules, b.Rules())
	return out
}

func (b *Book) empty() Set {
	return Set{TrustDomain: b.domain, Revision: b.Revision, Services: map[string]Service{}, Rules: map[string]Rule{}, Teams: b.teams}
}

// Slice is what Set().Slice would give.
func (b *Book) Slice(services ...string) Set {
	rules := len(b.wide)
	for _, name := range services {
		there, _ := b.to.Get(name)
		rules += len(there)
	}
	// Made as large as they mostly become: growing them was a quarter of the time.
	out := b.empty()
	out.Services, out.Rules = make(map[string]Service, len(services)+min(rules, 128)), make(map[string]Rule, rules)
	for _, name := range services {
		b.keep(out, name)
	}
	ids := make(map[string][]spiffe.ID, len(out.Services))
	for name, svc := range out.Services {
		ids[name], _ = svc.IDs(b.domain) // Compile reports it
		there, _ := b.to.Get(name)
		for _, r := range there {
			out.Rules[r.Name] = *r
		}
	}
	for _, r := range b.wide {
		for name := range ids {
			// What cannot be read goes along: Compile must see it and refuse.
			if bound, err := r.binds(name, ids[name], b.domain); bound || err != nil {
				out.Rules[r.Name] = *r
				break
			}
		}
	}
	for _, r := range out.Rules {
		b.keepNamed(out, &r)
	}
	for _, name := range services {
		for _, by := range out.Services[name].Forwarded.By {
			b.keep(out, by)
		}
	}
	return out
}

func (b *Book) keep(in Set, name string) {
	if _, there := in.Services[name]; there {
		return
	}
	if svc, ok := b.services.Get(name); ok {
		in.Services[name] = *svc
	}
}

func (b *Book) keepNamed(in Set, r *Rule) {
	for _, list := range [][]string{r.From, r.Except} {
		for _, s := range list {
			b.keep(in, s) // nothing but a name is a key
		}
	}
}

// Compile makes the table of one service.
func (b *Book) Compile(service string) (*Table, error) {
	svc, ok := b.Service(service)
	if !ok {
		return nil, unknownService(service)
	}
	return compile(origin{domain: b.domain, revision: b.Revision, identities: b.identities, rulesTo: b.rulesTo}, service, svc)
}

// identities is that of an origin.
func (b *Book) identities(service string) ([]string, bool) {
	svc, ok := b.services.Get(service)
	if !ok {
		return nil, false
	}
	return svc.Identities, true
}

// rulesTo is that of an origin.
func (b *Book) rulesTo(service string, ids []spiffe.ID) ([]string, func(i int) *Rule, error) {
	rules, _ := b.to.Get(service)
	one := len(rules)
	rules = slices.Clip(rules) // what is added goes elsewhere: the book's stay as they are
	for _, r := range b.wide {
		bound, err := r.binds(service, ids, b.domain)
		if err != nil {
			return nil, nil, fault.Invalidf("rules.%s.to: %w", clip(r.Name), err)
		}
		if bound {
			rules = append(rules, r)
		}
	}
	if len(rules) > one {
		slices.SortFunc(rules, func(a, b *Rule) int { return strings.Compare(a.Name, b.Name) })
	}
	names := make([]string, 0, len(rules))
	for _, r := range rules {
		names = append(names, r.Name)
	}
	return names, func(i int) *Rule { return rules[i] }, nil
}

// Validate is Set().Validate.
func (b *Book) Validate() (warnings []string, err error) { return b.Set().Validate() }

// ValidateAfter is Validate for a fork of before: services that are the very same
// are not looked at again. A trust domain of a hundred thousand of them takes
// changes one after the other.
func (b *Book) ValidateAfter(before *Book) (warnings []string, err error) {
	if !before.isSound() {
		return b.Validate()
	}
	return b.Set().validateAfter(before.Service)
}

// isSound says whether the whole of it is without a fault; it looks once. Its forks
// are taken for sound too: nothing becomes the policy that was not validated. So
// only what is in force may be asked, never a fork that may not come to be.
func (b *Book) isSound() bool {
	if b.sound.Load() {
		return true
	}
	if _, err := b.Validate(); err != nil {
		return false
	}
	b.sound.Store(true)
	return true
}

// Check is Validate for a fork of before in which only the rules of some names
// differ: of the warnings it gives those that before had not. It looks at the
// services that these rules bind, and at nothing else.
func (b *Book) Check(before *Book, rules ...string) (brought []string, err error) {
	now, was, ok := b.around(before, rules)
	if !ok || !before.sound.Load() {
		return b.CheckWhole(before)
	}
	warnings, err := now.Validate()
	if err != nil {
		return b.CheckWhole(before) // for its words: it knows all names
	}
	if len(warnings) == 0 {
		return nil, nil
	}
	known, err := was.Validate()
	return news(warnings, known, err), nil
}

// CheckWhole is Check for a fork in which anything may differ.
func (b *Book) CheckWhole(before *Book) (brought []string, err error) {
	warnings, err := b.Set().Validate()
	if err != nil || len(warnings) == 0 && before.sound.Load() {
		return nil, err
	}
	known, unsound := before.Validate()
	if unsound == nil {
		before.sound.Store(true) // not b's line: it may never come to be
	}
	return news(warnings, known, unsound), nil
}

// news is the warnings that a change brings. What was not sound before gave none:
// the change mends it.
func news(warnings, known []string, unsound error) []string {
	if unsound != nil {
		return warnings
	}
	return slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(known, w) })
}

// around is what the rules of some names have to do with, after and before: the
// services they bind, with all rules to these. Services are the same on both
// sides. ok is false where a rule binds by pattern, and so perhaps everything.
func (b *Book) around(before *Book, rules []string) (now, was Set, ok bool) {
	var bound []string
	for _, name := range rules {
		for _, side := range []*Book{before, b} {
			if r, there := side.rules.Get(name); there {
				if !r.ToOne() {
					return Set{}, Set{}, false
				}
				bound = append(bound, r.To)
			}
		}
	}
	now, was = b.Slice(bound...), before.Slice(bound...)
	for _, name := range rules {
		if r, there := b.rules.Get(name); there {
			now.Rules[name] = *r // also where there is no service of that name
			b.keepNamed(now, r)
		}
	}
	maps.Copy(now.Services, was.Services)
	maps.Copy(was.Services, now.Services)
	return now, was, true
}
