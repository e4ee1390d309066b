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

// reference decides the slow and obvious way: by going over all rules, splitting
// strings, with nothing shared with the table. peer is a whole ID, or "" for an
// anonymous one. It returns every rule of the tier that decided.
func reference(set Set, service, peer string, r Request) (Effect, Reason, []string) {
	var guardrails, denies, allows []string
	named, allowed := false, false
	for name, rule := range set.Rules {
		if !refBinds(set, rule.To, service) {
			continue
		}
		from := slices.ContainsFunc(rule.From, func(s string) bool { return refSource(set, s, peer, false) })
		fromDeny := slices.ContainsFunc(rule.From, func(s string) bool { return refSource(set, s, peer, true) })
		fromDeny = fromDeny && !slices.ContainsFunc(rule.Except, func(s string) bool { return refSource(set, s, peer, false) })
		fits := slices.ContainsFunc(rule.Allow, func(a string) bool { return strings.HasPrefix(a, "tcp") == (set.Services[service].Protocol == TCP) })
		named = named || from && fits
		if from && slices.ContainsFunc(rule.Allow, func(a string) bool { return refAction(set, service, a, r, false) }) {
			allows = append(allows, name)
			allowed = true
		}
		if fromDeny && slices.ContainsFunc(rule.Deny, func(a string) bool { return refAction(set, service, a, r, true) }) {
			if rule.Guardrail {
				guardrails = append(guardrails, name)
			} else {
				denies = append(denies, name)
			}
		}
	}
	switch {
	case len(guardrails) > 0:
		return Deny, GuardrailDeny, guardrails
	case len(denies) > 0:
		return Deny, DenyRule, denies
	case allowed:
		return Allow, AllowRule, allows
	case named:
		return Deny, NoRule, nil
	case peer != "" && !strings.HasPrefix(peer, "spiffe://"+ownDomain+"/"):
		return Deny, UnknownTrustDomain, nil
	default:
		return Deny, NoSource, nil
	}
}

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
