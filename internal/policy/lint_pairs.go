package policy

import (
	"maps"
	"slices"
)

// sides are the actions to one service, by what they do.
type sides struct{ allows, denies, boundaries []linted }

func (s *sides) add(field string, l linted) {
	switch field {
	case "allow":
		s.allows = append(s.allows, l)
	case "deny":
		s.denies = append(s.denies, l)
	default:
		s.boundaries = append(s.boundaries, l)
	}
}

// pairing compares actions with each other, a bounded number of times.
type pairing struct {
	v    *validation
	left int
	out  *finder
}

// each calls with for all of list, until the bound is reached.
func (p *pairing) each(list []linted, with func(l *linted)) {
	for i := range list {
		if p.left--; p.left < 0 {
			return
		}
		with(&list[i])
	}
}

// lintPairs compares what is to the same service.
func (v *validation) lintPairs(byService map[string]*sides, all bool, out *finder) {
	p := &pairing{v: v, left: maxLint, out: out}
	for _, name := range slices.Sorted(maps.Keys(byService)) {
		s := byService[name]
		for i := range s.allows {
			a := &s.allows[i]
			p.each(s.denies, func(d *linted) { p.denied(name, a, d) })
			p.bounded(name, a, s.boundaries)
		}
		if !all {
			continue
		}
		for i := range s.allows {
			p.each(s.allows, func(by *linted) { p.contained(name, &s.allows[i], by, false) })
		}
		for i := range s.denies {
			p.each(s.denies, func(by *linted) { p.contained(name, &s.denies[i], by, true) })
		}
	}
	if p.left < 0 {
		out.add(lintUnfinished, Warning, "rules", "", "more than %d pairs of actions to the same service: the rest were not compared", maxLint)
	}
}

// denied compares an allow with a deny.
func (p *pairing) denied(service string, a, d *linted) {
	v := p.v
	if len(d.rule.Except) > 0 {
		return
	}
	if d.action.covers(a.action) && v.allUnder(a.rule.From, d.rule.From) {
		if d.rule.When == "" && d.rule.Mode == Enforce {
			f := p.out.add(lintShadowed, Warning, a.at, "kith rules rm "+a.rule.Name+", or an except in "+d.rule.Name,
				"has no effect on %s: rule %s denies all of it", service, d.rule.Name)
			f.Service, f.Inert = service, true
		}
	} else if slashGap(a.action, d.action) && v.allUnder(d.rule.From, a.rule.From) {
		p.out.add(lintSlash, Warning, d.at, templateText(d.action.path)+"/{**}", "leaves %s/ open through rule %s: a trailing slash is another path; %s/{**} covers both",
			templateText(d.action.path), a.rule.Name, templateText(d.action.path))
	}
}

// bounded looks for a boundary that holds nothing of an allow.
func (p *pairing) bounded(service string, a *linted, boundaries []linted) {
	inside := map[string]bool{}
	var first *linted
	p.each(boundaries, func(b *linted) {
		r := b.rule
		if r.Mode == Enforce && len(r.Except) == 0 {
			inside[r.Name] = inside[r.Name] || !b.action.disjoint(a.action)
		}
	})
	if p.left < 0 {
		return // what was not compared may hold it
	}
	for i := range boundaries {
		if held, asked := inside[boundaries[i].rule.Name]; asked && !held {
			first = &boundaries[i]
			break
		}
	}
	if first != nil {
		f := p.out.add(lintOutside, Warning, a.at, "kith rules show "+first.rule.Name, "has no effect on %s: all of it is outside of boundary %s", service, first.rule.Name)
		f.Service, f.Inert = service, true
	}
}

// contained looks for a rule that makes another one needless: a is within by.
func (p *pairing) contained(service string, a, by *linted, deny bool) {
	if a.order == by.order || !p.v.within(a, by, deny) {
		return
	}
	id, what := lintWiderExists, "is within rule %s on %s"
	if p.v.within(by, a, deny) {
		if a.order < by.order {
			return // the later one is the duplicate
		}
		id, what = lintDuplicate, "says again what rule %s says of %s"
	}
	f := p.out.add(id, Note, a.at, "", what, by.rule.Name, service)
	f.Service, f.Inert = service, true
}

// within is true if by allows, or denies, in every case in which a does.
func (v *validation) within(a, by *linted, deny bool) bool {
	x, y := a.rule, by.rule
	switch {
	case !by.action.covers(a.action), y.When != "" && y.When != x.When, y.Mode != Enforce && y.Mode != x.Mode:
		return false
	case deny:
		return (y.Guardrail || !x.Guardrail) && (len(y.Except) == 0 || slices.Equal(x.Except, y.Except)) && v.allUnder(x.From, y.From)
	}
	return !slices.ContainsFunc(x.From, func(from string) bool { return !v.underGiven(from, y.From) })
}

// disjoint is true if no request is both what a and what b are about.
func (a Action) disjoint(b Action) bool {
	if a.protocol == TCP || b.protocol == TCP {
		return a.protocol != b.protocol || a.port != b.port && a.port != 0 && b.port != 0
	}
	if a.methods != nil && b.methods != nil && !slices.ContainsFunc(a.methods, func(m string) bool { return slices.Contains(b.methods, m) }) {
		return true
	}
	return !overlap(a.path, b.path)
}

// overlap is true if there is a path that both templates match.
func overlap(a, b []part) bool {
	openA, openB := openAt(a), openAt(b)
	switch {
	case openA < 0 && openB < 0:
		return len(a) == len(b) && overlapEach(a, b)
	case openA < 0:
		return overlap(b, a)
	case openB < 0:
		head, tail := a[:openA], a[openA+1:]
		return len(head)+len(tail) <= len(b) && overlapEach(head, b[:len(head)]) && overlapEach(tail, b[len(b)-len(tail):])
	}
	head, tail := min(openA, openB), min(len(a)-openA, len(b)-openB)-1
	return overlapEach(a[:head], b[:head]) && overlapEach(a[len(a)-tail:], b[len(b)-tail:])
}

func overlapEach(a, b []part) bool {
	for i, p := range a {
		switch {
		case p.kind == literal && b[i].kind == literal && p.text != b[i].text:
			return false
		case p.kind == literal && b[i].kind == one && p.text == "", p.kind == one && b[i].kind == literal && b[i].text == "":
			return false
		}
	}
	return true
}
