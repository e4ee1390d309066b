package policy

import (
	"maps"
	"slices"
	"strings"
)

// maxLint bounds the comparisons of one lint, so that a large set stays quick to
// validate.
const maxLint = 1 << 20

// linted is one action of one rule, resolved enough to compare.
type linted struct {
	rule    *Rule
	at      string // path of the action
	text    string
	action  Action
	targets []string
	order   int // of all actions: of two that say the same the later one is a duplicate
}

// findings are those about rules that can be enforced but do not do what they
// seem to; all of them costs more, and brings notes.
func (v *validation) findings(all bool) []Finding {
	var out finder
	v.lintServices(&out)
	v.lintTeams(&out)
	v.lintProofs(&out)
	byService := map[string]*sides{}
	order := 0
	for _, r := range v.rulesInOrder() {
		targets := v.targets("", r)
		if len(targets) == 0 {
			out.add(lintNothing, Warning, "rules."+r.Name+".to", "kith rules rm "+r.Name, "no service has an identity like %s, so the rule binds nothing", r.To)
		}
		for _, list := range []struct {
			field   string
			actions []string
		}{{"allow", r.Allow}, {"deny", r.Deny}, {"boundary", r.Boundary}} {
			for i, text := range list.actions {
				a, _ := v.action(text) // parsed before
				order++
				l := linted{&r, index("rules."+r.Name+"."+list.field, i), text, a, targets, order}
				v.lintAction(l, list.field, &out)
				for _, name := range targets {
					side := byService[name]
					if side == nil {
						side = &sides{}
						byService[name] = side
					}
					side.add(list.field, l)
				}
			}
		}
		v.lintRule(r, &out)
	}
	v.lintPairs(byService, all, &out)
	return out.sorted()
}

func (v *validation) rulesInOrder() []Rule {
	rules := make([]Rule, 0, len(v.set.Rules))
	for _, r := range v.set.Rules {
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	return rules
}

// lintServices warns about identities that make a peer two services at once.
func (v *validation) lintServices(out *finder) {
	rivals := v.rivals()
	if len(rivals) == 0 {
		return
	}
	owner, guard := map[string]string{}, map[string]string{}
	for name, r := range v.set.Rules {
		if r.ofPlatform() && (guard[r.To] == "" || name < guard[r.To]) {
			guard[r.To] = name
		}
	}
	for _, name := range rivals {
		for _, id := range v.idsOf(name) {
			if first, ok := owner[id.String()]; ok {
				out.add(lintShared, Warning, "services."+name+".identities", "", "%s is %s too: its holders are bound by the rules of both", id, first)
				for _, pair := range [][2]string{{name, first}, {first, name}} {
					if rule := guard[pair[0]]; rule != "" {
						out.add(lintShared, Warning, "rules."+rule+".to", "to: "+id.Path(), "binds %s by its name, and not %s, for which a workload with %s can answer as well", pair[0], pair[1], id)
					}
				}
				continue
			}
			owner[id.String()] = name
		}
	}
}

// rivals are the services, sorted, that have an identity which occurs twice.
func (v *validation) rivals() []string {
	own := v.set.TrustDomain.ID().String()
	first := make(map[string]string, len(v.set.Services))
	found := map[string]bool{}
	for name, svc := range v.set.Services {
		for _, identity := range svc.Identities {
			if path, ok := strings.CutPrefix(identity, own+"/"); ok {
				identity = "/" + path
			}
			if other, taken := first[identity]; taken {
				found[name], found[other] = true, true
				continue
			}
			first[identity] = name
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// lintAction warns about an action that can match nothing on any target.
func (v *validation) lintAction(l linted, field string, out *finder) {
	for _, m := range l.action.methods {
		if up := strings.ToUpper(m); up != m {
			if _, known := methodBit(up); known {
				out.add(lintMethodCase, Warning, l.at, "write "+up, "method %s is not %s: methods are case-sensitive", m, up)
			}
		}
	}
	v.lintTemplate(l, out)
	if field == "allow" {
		v.lintRuledOut(l, out)
	}
	if l.action.protocol == TCP || len(l.targets) == 0 {
		return
	}
	inert := field != "boundary" // one that holds nothing denies everything
	if l.action.methods != nil && !slices.Contains(l.action.methods, "POST") && v.all(l.targets, func(s Service) bool { return s.Protocol == GRPC }) {
		out.add(lintMethod, Warning, l.at, `as in "grpc shop.v1.Orders/List"`, "gRPC calls are POST, so this matches none of them").Inert = inert
	}
	for i, p := range l.action.path {
		switch {
		case p.kind != literal:
		case p.text == "" && i < len(l.action.path)-1 && v.all(l.targets, func(s Service) bool { return !s.Paths.KeepDoubleSlash }):
			out.add(lintNever, Warning, l.at, "", "can never match: paths with // are refused unless the service has paths: {double_slash: keep}").Inert = inert
		case strings.Contains(p.text, "%2F") && v.all(l.targets, func(s Service) bool { return !s.Paths.KeepEncodedSlash }):
			out.add(lintNever, Warning, l.at, "", "can never match: paths with %%2F are refused unless the service has paths: {encoded_slash: keep}").Inert = inert
		}
	}
}

func (v *validation) all(names []string, is func(Service) bool) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !is(v.set.Services[n]) })
}

// slashGap is true if allow covers what deny denies with a slash added, which
// many back ends serve alike.
func slashGap(allow, deny Action) bool {
	if !allow.protocol.carriesRequests() || deny.protocol != HTTP || openAt(deny.path) >= 0 || deny.path[len(deny.path)-1].text == "" && deny.path[len(deny.path)-1].kind == literal {
		return false
	}
	slashed := deny
	slashed.path = append(slices.Clone(deny.path), part{})
	if deny.methods == nil {
		slashed.methods = allow.methods
	}
	return allow.covers(slashed)
}

func (v *validation) allUnder(sources, by []string) bool {
	return !slices.ContainsFunc(sources, func(s string) bool { return !v.under(s, by) })
}

// under is true if one entry of by, which binds as in a deny, names everybody
// that s names.
func (v *validation) under(s string, by []string) bool {
	if slices.Contains(by, s) {
		return true
	}
	src, err := parseSource(s)
	if err != nil || src.kind == anonymous {
		return false
	}
	for _, b := range by {
		if outer, err := parseSource(b); err == nil && v.surrounds(outer, src) {
			return true
		}
	}
	return false
}

// underGiven is under for lists that give: there any is the own trust domain's.
func (v *validation) underGiven(s string, by []string) bool {
	if slices.Contains(by, s) {
		return true
	}
	given := make([]string, 0, len(by))
	for _, b := range by {
		if b == "any" {
			b = "/**"
		}
		given = append(given, b)
	}
	return v.under(s, given)
}

// surrounds is true if outer names everybody that inner names.
func (v *validation) surrounds(outer, inner source) bool {
	if outer.kind == named {
		return false
	}
	own := v.set.TrustDomain
	switch inner.kind {
	case named:
		for _, id := range v.idsOf(inner.text) {
			if !outer.matches(id, own) {
				return false
			}
		}
		return true
	case identities:
		if outer.kind == anyPeer {
			return true
		}
		a, b := outer.td, inner.td
		if a.IsZero() {
			a = own
		}
		if b.IsZero() {
			b = own
		}
		return outer.kind == identities && a == b && covers(outer.path, inner.path)
	default:
		return false
	}
}
