package policy

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

const ownDomain = "acme.example"

func trustDomain(t testing.TB) spiffe.TrustDomain {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(ownDomain)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

func mustID(t testing.TB, uri string) spiffe.ID {
	t.Helper()
	if strings.HasPrefix(uri, "/") {
		uri = "spiffe://" + ownDomain + uri
	}
	id, err := spiffe.ParseID(uri)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// newSet is a set of the own trust domain.
func newSet(t testing.TB, services []Service, rules ...Rule) Set {
	t.Helper()
	set := Set{TrustDomain: trustDomain(t), Revision: 7, Services: map[string]Service{}, Rules: map[string]Rule{}}
	for _, s := range services {
		set.Services[s.Name] = s
	}
	for _, r := range rules {
		set.Rules[r.Name] = r
	}
	return set
}

func mustCompile(t testing.TB, set Set, service string) *Table {
	t.Helper()
	table, err := Compile(set, service)
	if err != nil {
		t.Fatalf("Compile(%s): %v\n%+v", service, err, set)
	}
	return table
}

// verdict is what the reference says: every rule of the tier that decided may be
// cited.
type verdict struct {
	effect   Effect
	reason   Reason
	rules    []string
	observed bool
	shadow   Shadowed // its Rule is empty; shadowed lists those that may be cited
	shadowed []string
}

// agrees says whether d is what v says.
func (v verdict) agrees(d Decision) bool {
	cited := d.Shadow
	cited.Rule = ""
	return d.Effect == v.effect && d.Reason == v.reason && d.Observed == v.observed &&
		(d.Rule == "") == (v.rules == nil) && (v.rules == nil || slices.Contains(v.rules, d.Rule)) &&
		cited == v.shadow && (d.Shadow.Rule == "") == (v.shadowed == nil) && (v.shadowed == nil || slices.Contains(v.shadowed, d.Shadow.Rule))
}

// matching are the rules of one mode that match, by what they do.
type matching struct {
	guardrails, outside, denies, allows []string
	unsure                              map[string]bool // denies whose condition is not known
	missed                              Reason          // of an allow that only its condition keeps from allowing
	named                               bool            // some allow is about this peer
}

// reference decides the slow and obvious way: by going over all rules, splitting
// strings, with nothing shared with the table. peer is a whole ID, or "" for an
// anonymous one.
func reference(set Set, service, peer string, r Request) verdict {
	if set.Services[service].Protocol != TCP && r.Protocol != TCP && r.Protocol != 0 && !strings.HasPrefix(r.Path, "/") {
		return verdict{reason: PathNotCanonical}
	}
	m := refMatching(set, service, peer, r, Enforce)
	var v verdict
	platform := true
	switch {
	case r.Protocol == 0 || (r.Protocol == TCP) != (set.Services[service].Protocol == TCP):
		return verdict{reason: refMissing(matching{named: m.named}, peer)} // no rule could be about it
	case len(m.guardrails) > 0:
		v = verdict{reason: GuardrailDeny, rules: m.guardrails}
	case len(m.outside) > 0:
		v = verdict{reason: OutsideBoundary, rules: m.outside}
	case len(m.denies) > 0:
		v, platform = verdict{reason: DenyRule, rules: m.denies}, false
	case len(m.allows) > 0:
		v, platform = verdict{effect: Allow, reason: AllowRule, rules: m.allows}, false
	default:
		v, platform = verdict{reason: refMissing(m, peer)}, false
	}
	s := refMatching(set, service, peer, r, Shadow)
	undecided := v.rules == nil
	stops := func(rules []string, reason Reason) bool {
		if len(rules) > 0 && v.effect == Allow {
			v.shadow, v.shadowed = Shadowed{Reason: reason}, rules
		}
		return len(rules) > 0
	}
	if !stops(s.guardrails, GuardrailDeny) && !stops(s.outside, OutsideBoundary) && !stops(s.denies, DenyRule) && undecided && len(s.allows) > 0 {
		v.shadow, v.shadowed = Shadowed{Effect: Allow, Reason: AllowRule}, s.allows
	}
	if set.Services[service].Mode == Observe && v.effect == Deny && !platform {
		v.effect, v.observed = Allow, true
	}
	return v
}

func refMissing(m matching, peer string) Reason {
	switch {
	case m.missed != 0:
		return m.missed
	case m.named:
		return NoRule
	case peer != "" && !strings.HasPrefix(peer, "spiffe://"+ownDomain+"/"):
		return UnknownTrustDomain
	default:
		return NoSource
	}
}

func refMatching(set Set, service, peer string, r Request, mode Mode) matching {
	m := matching{unsure: map[string]bool{}}
	tcp := set.Services[service].Protocol == TCP
	for name, rule := range set.Rules {
		if !refBinds(set, rule.To, service) || rule.Mode != mode {
			continue
		}
		from := slices.ContainsFunc(rule.From, func(s string) bool { return refSource(set, s, peer, false) })
		free := slices.ContainsFunc(rule.Except, func(s string) bool { return refSource(set, s, peer, false) })
		fromDeny := !free && slices.ContainsFunc(rule.From, func(s string) bool { return refSource(set, s, peer, true) })
		fits := slices.ContainsFunc(rule.Allow, func(a string) bool { return (strings.Fields(a)[0] == "tcp") == tcp })
		m.named = m.named || from && fits
		when := refWhen(rule.When, peer, r)
		asked := func(actions []string, deny bool) bool {
			return slices.ContainsFunc(actions, func(a string) bool { return refAction(set, service, a, r, deny) })
		}
		if rule.Boundary != nil && !free && !(from && asked(rule.Boundary, false) && when == holds) {
			m.outside = append(m.outside, name)
		}
		if from && asked(rule.Allow, false) {
			switch {
			case when == holds:
				m.allows = append(m.allows, name)
			case when == unknown:
				m.missed = CondError
			case m.missed == 0:
				m.missed = CondFalse
			}
		}
		if fromDeny && asked(rule.Deny, true) && when != fails {
			m.unsure[name] = when == unknown
			if rule.Guardrail {
				m.guardrails = append(m.guardrails, name)
			} else {
				m.denies = append(m.denies, name)
			}
		}
	}
	return m
}

// refConditions are the conditions of random rules, each with what it comes to.
func refConditions() map[string]func(peer string, r Request) outcome {
	is := func(yes bool) outcome {
		if yes {
			return holds
		}
		return fails
	}
	env := func(r Request) []string {
		if r.Facts == nil || r.Facts.Headers == nil {
			return nil
		}
		return r.Facts.Headers.Values("X-Env")
	}
	return map[string]func(string, Request) outcome{
		"": func(string, Request) outcome { return holds },
		`peer.trust_domain == "acme.example"`: func(peer string, _ Request) outcome {
			if peer == "" {
				return unknown
			}
			return is(strings.HasPrefix(peer, "spiffe://acme.example/"))
		},
		`request.port == 5432`: func(_ string, r Request) outcome {
			if r.Port == 0 {
				return unknown
			}
			return is(r.Port == 5432)
		},
		`request.headers["x-env"] == "prod"`: func(_ string, r Request) outcome {
			if len(env(r)) != 1 {
				return unknown
			}
			return is(env(r)[0] == "prod")
		},
		`request.headers["x-env"].matches("^t") || request.method == "GET"`: func(_ string, r Request) outcome {
			switch {
			case r.Method == "GET", len(env(r)) == 1 && strings.HasPrefix(env(r)[0], "t"):
				return holds
			case len(env(r)) != 1:
				return unknown
			}
			return fails
		},
	}
}

func refWhen(text, peer string, r Request) outcome { return refConditions()[text](peer, r) }

func refWhole(s string) string {
	if strings.HasPrefix(s, "/") {
		return "spiffe://" + ownDomain + s
	}
	return s
}

func refBinds(set Set, to, service string) bool {
	if to == service || to == "any" {
		return true
	}
	return slices.ContainsFunc(set.Services[service].Identities, func(id string) bool {
		return strings.Contains(to, "/") && refID(refWhole(to), refWhole(id))
	})
}

func refSource(set Set, source, peer string, deny bool) bool {
	switch {
	case source == "anonymous" || peer == "":
		return source == "anonymous" && peer == ""
	case source == "any":
		return deny || strings.HasPrefix(peer, "spiffe://"+ownDomain+"/")
	case strings.Contains(source, "/"):
		return refID(refWhole(source), peer)
	default:
		return slices.ContainsFunc(set.Services[source].Identities, func(id string) bool { return refWhole(id) == peer })
	}
}

// refID matches a whole ID against a whole pattern.
func refID(pattern, id string) bool {
	if under, ok := strings.CutSuffix(pattern, "/**"); ok && !strings.Contains(under, "*") {
		return id == under || strings.HasPrefix(id, under+"/")
	}
	p, i := strings.Split(pattern, "/"), strings.Split(id, "/")
	if p[len(p)-1] == "**" {
		if len(i) < len(p)-1 {
			return false
		}
		p, i = p[:len(p)-1], i[:len(p)-1]
	}
	return slices.EqualFunc(p, i, func(a, b string) bool { return a == "*" || a == b })
}

func refAction(set Set, service, action string, r Request, deny bool) bool {
	words := strings.Fields(action)
	if r.Protocol == 0 || (words[0] == "tcp") != (r.Protocol == TCP) || (r.Protocol == TCP) != (set.Services[service].Protocol == TCP) {
		return false
	}
	switch words[0] {
	case "tcp":
		return len(words) == 1 || words[1] == strconv.Itoa(int(r.Port)) || deny && r.Port == 0
	case "grpc":
		template := "/" + words[1]
		if words[1] == "*" {
			template = "/*/*"
		}
		return r.Method == "POST" && refTemplate(strings.Split(template, "/")[1:], strings.Split(r.Path, "/")[1:])
	default:
		return (words[0] == "*" || slices.Contains(strings.Split(words[0], ","), r.Method)) &&
			refTemplate(strings.Split(words[1], "/")[1:], strings.Split(r.Path, "/")[1:])
	}
}

func refTemplate(template, path []string) bool {
	if len(template) == 0 {
		return len(path) == 0
	}
	if template[0] == "{**}" {
		for i := range len(path) + 1 {
			if refTemplate(template[1:], path[i:]) {
				return true
			}
		}
		return false
	}
	if len(path) == 0 {
		return false
	}
	wildcard := template[0] == "*" || strings.HasPrefix(template[0], "{")
	a, errA := url.PathUnescape(template[0])
	b, errB := url.PathUnescape(path[0])
	if wildcard && path[0] == "" || !wildcard && (errA != nil || errB != nil || a != b) {
		return false
	}
	return refTemplate(template[1:], path[1:])
}

// identity is the ID of a path in the own trust domain, or of a whole ID.
func identity(uri string) spiffe.ID {
	if strings.HasPrefix(uri, "/") {
		uri = "spiffe://" + ownDomain + uri
	}
	id, err := spiffe.ParseID(uri)
	if err != nil {
		panic(err)
	}
	return id
}
