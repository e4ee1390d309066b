package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxLint bounds the comparisons of one lint, so that a large set stays quick to
// validate.
const maxLint = 1 << 20

// linted is one action of one rule, resolved enough to compare.
type linted struct {
	rule    Rule
	at      string // path of the action
	action  Action
	targets []string
}

// lint warns about rules that can be enforced but do not do what they seem to.
func (v *validation) lint() []string {
	var out []string
	warn := func(at, format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	v.lintServices(warn)
	denies := map[string][]linted{} // by service
	var allows []linted
	for _, r := range v.rulesInOrder() {
		targets := v.targets("", r)
		if len(targets) == 0 {
			warn("rules."+r.Name+".to", "no service has an identity like %s, so the rule binds nothing", r.To)
		}
		for field, list := range map[string][]string{"allow": r.Allow, "deny": r.Deny} {
			for i, text := range list {
				a, _ := v.action(text) // parsed before
				l := linted{r, index("rules."+r.Name+"."+field, i), a, targets}
				v.lintAction(l, warn)
				if field == "allow" {
					allows = append(allows, l)
					continue
				}
				for _, name := range targets {
					denies[name] = append(denies[name], l)
				}
			}
		}
		v.lintExcept(r, warn)
	}
	v.lintPairs(allows, denies, warn)
	slices.Sort(out)
	return out
}

func (v *validation) rulesInOrder() []Rule {
	rules := make([]Rule, 0, len(v.set.Rules))
	for _, r := range v.set.Rules {
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	return rules
}

type warner func(at, format string, args ...any)

// lintServices warns about identities that make a peer two services at once.
func (v *validation) lintServices(warn warner) {
	owner := map[string]string{}
	for _, name := range v.rivals() {
		for _, id := range v.idsOf(name) {
			if first, ok := owner[id.String()]; ok {
				warn("services."+name+".identities", "%s is %s too: its holders are bound by the rules of both", id, first)
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
func (v *validation) lintAction(l linted, warn warner) {
	for _, m := range l.action.methods {
		if up := strings.ToUpper(m); up != m {
			if _, known := methodBit(up); known {
				warn(l.at, "method %s is not %s: methods are case-sensitive", m, up)
			}
		}
	}
	if l.action.protocol == TCP || len(l.targets) == 0 {
		return
	}
	if l.action.methods != nil && !slices.Contains(l.action.methods, "POST") && v.all(l.targets, func(s Service) bool { return s.Protocol == GRPC }) {
		warn(l.at, "gRPC calls are POST, so this matches none of them")
	}
	for i, p := range l.action.path {
		switch {
		case p.kind != literal:
		case p.text == "" && i < len(l.action.path)-1 && v.all(l.targets, func(s Service) bool { return !s.Paths.KeepDoubleSlash }):
			warn(l.at, "can never match: paths with // are refused unless the service has paths: {double_slash: keep}")
		case strings.Contains(p.text, "%2F") && v.all(l.targets, func(s Service) bool { return !s.Paths.KeepEncodedSlash }):
			warn(l.at, "can never match: paths with %%2F are refused unless the service has paths: {encoded_slash: keep}")
		}
	}
}

func (v *validation) all(names []string, is func(Service) bool) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !is(v.set.Services[n]) })
}

// lintExcept warns about a deny whose sources are all excepted.
func (v *validation) lintExcept(r Rule, warn warner) {
	if len(r.Except) == 0 {
		return
	}
	for _, from := range r.From {
		if from == "any" || !v.under(from, r.Except) {
			return
		}
	}
	warn("rules."+r.Name+".except", "frees every source of the rule, so it denies nobody")
}

// lintPairs compares each allow with the denies to the same service.
func (v *validation) lintPairs(allows []linted, denies map[string][]linted, warn warner) {
	compared := 0
	for _, a := range allows {
		for _, name := range a.targets {
			for _, d := range denies[name] {
				if compared++; compared > maxLint {
					warn("rules", "more than %d pairs of allow and deny: the rest were not compared", maxLint)
					return
				}
				if len(d.rule.Except) > 0 {
					continue
				}
				if d.action.covers(a.action) && v.allUnder(a.rule.From, d.rule.From) {
					warn(a.at, "has no effect on %s: rule %s denies all of it", name, d.rule.Name)
				} else if slashGap(a.action, d.action) && v.allUnder(d.rule.From, a.rule.From) {
					warn(d.at, "leaves %s/ open through rule %s: a trailing slash is another path; %s/{**} covers both", templateText(d.action.path), a.rule.Name, templateText(d.action.path))
				}
			}
		}
	}
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

// under is true if one entry of by names everybody that s names.
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
