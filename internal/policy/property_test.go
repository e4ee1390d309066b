package policy

import (
	"flag"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/run/runtest"
	"github.com/kith-id/kith/spiffe"
)

// checks sets how many sets a property is tried on: KITH_POLICY_CHECKS, or few.
// Each set is asked some thousand requests.
func checks(t *testing.T) {
	t.Helper()
	n := os.Getenv("KITH_POLICY_CHECKS")
	switch {
	case n != "":
	case runtest.Raced:
		n = "40"
	default:
		n = "150"
	}
	for name, value := range map[string]string{"rapid.checks": n, "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// until checks a property, and again, at most ten times, until enough says that
// its rare cases came up: what is drawn is random.
func until(t *testing.T, enough func() bool, property func(*rapid.T)) {
	t.Helper()
	for range 10 {
		if rapid.Check(t, property); enough() {
			return
		}
	}
}

func propertyServices() []Service {
	return []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "calls", Identities: []string{"/n/calls", "/m/calls"}, Protocol: GRPC},
		{Name: "db", Identities: []string{"/n/db"}, Protocol: TCP},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
		{Name: "seen", Identities: []string{"/n/seen"}, Protocol: HTTP, Mode: Observe},
		{Name: "batch", Identities: []string{"/n/batch", "/n/web", "spiffe://other.example/n/batch"}, Protocol: HTTP},
	}
}

func propertyPeers() []string {
	return []string{
		"", "spiffe://acme.example/n/web", "spiffe://acme.example/n/batch", "spiffe://acme.example/n", "spiffe://acme.example/n/web/x",
		"spiffe://acme.example/m/calls", "spiffe://other.example/n/web", "spiffe://other.example/n/batch", "spiffe://third.example/n/web",
	}
}

func genSources(t *rapid.T, label string, least int) []string {
	pool := []string{
		"any", "anonymous", "web", "batch", "calls", "/n/web", "/n/*", "/n/**", "/**", "/*/web", "/*/*/**", "/n", "/*",
		"spiffe://acme.example/n/web", "spiffe://other.example/n/web", "spiffe://other.example/**", "spiffe://other.example/n/*",
	}
	return rapid.SliceOfNDistinct(rapid.SampledFrom(pool), least, 3, rapid.ID[string]).Draw(t, label)
}

func genAction(protocol Protocol) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		if protocol == TCP {
			return rapid.SampledFrom([]string{"tcp", "tcp 5432", "tcp 5433"}).Draw(t, "tcp")
		}
		if rapid.IntRange(0, 5).Draw(t, "kind") == 0 {
			return rapid.SampledFrom([]string{"grpc *", "grpc a/*", "grpc a/b", "grpc a.b/c"}).Draw(t, "grpc")
		}
		methods := rapid.SampledFrom([]string{"GET", "POST", "GET,POST", "*", "PURGE", "get", "GET,PURGE,DELETE"}).Draw(t, "methods")
		segment := rapid.SampledFrom([]string{"a", "a", "b", "c", "a.b", "*", "{x}", "{y}", "a%20b", "!", "%21", "%2A", "%C3%A9", "a%2Fb"})
		segments := rapid.SliceOfN(segment, 1, 4).Draw(t, "segments")
		if at := rapid.IntRange(-4, len(segments)-1).Draw(t, "open"); at >= 0 {
			segments[at] = "{**}"
		}
		if rapid.IntRange(0, 5).Draw(t, "slash") == 0 {
			segments = append(segments, "")
		}
		return methods + " /" + strings.Join(segments, "/")
	})
}

func genRule(name string) *rapid.Generator[Rule] {
	return rapid.Custom(func(t *rapid.T) Rule {
		r := Rule{Name: name, From: genSources(t, "from", 1)}
		r.To = rapid.SampledFrom([]string{"orders", "orders", "orders", "seen", "calls", "db", "any", "/n/*", "/n/orders", "/m/**"}).Draw(t, "to")
		protocol := HTTP
		if r.To == "db" {
			protocol = TCP
		}
		actions := func(label string) []string {
			list := rapid.SliceOfN(genAction(protocol), 1, 3).Draw(t, label)
			if r.To == "any" || r.To == "/n/*" {
				list = append(list, genAction(TCP).Draw(t, "also"))
			}
			return list
		}
		switch rapid.IntRange(0, 7).Draw(t, "effect") {
		case 0:
			r.Deny, r.Guardrail, r.Except = actions("guardrail"), true, genSources(t, "except", 0)
		case 1:
			r.Deny, r.Except = actions("deny"), genSources(t, "except", 0)
		case 2:
			r.Allow, r.Deny, r.Except = actions("allow"), actions("deny"), genSources(t, "except", 0)
		case 3:
			r.Boundary, r.Except = actions("boundary"), genSources(t, "except", 0)
		default:
			r.Allow = actions("allow")
		}
		if rapid.IntRange(0, 3).Draw(t, "shadow") == 0 {
			r.Mode = Shadow
		}
		if rapid.IntRange(0, 2).Draw(t, "conditional") == 0 {
			r.When = rapid.SampledFrom(slices.Sorted(maps.Keys(refConditions()))).Draw(t, "when")
		}
		if tcp := func(a string) bool { return strings.HasPrefix(a, "tcp") }; strings.Contains(r.When, "request.headers") &&
			slices.ContainsFunc(slices.Concat(r.Allow, r.Deny, r.Boundary), tcp) {
			r.When = ""
		}
		return r
	})
}

func genSet(t *rapid.T, td spiffe.TrustDomain) Set {
	set := Set{TrustDomain: td, Revision: 7, Services: map[string]Service{}, Rules: map[string]Rule{}}
	for _, s := range propertyServices() {
		set.Services[s.Name] = s
	}
	for _, name := range []string{"r-a", "r-b", "r-c", "r-d", "r-e", "r-f", "r-g", "r-h"}[:rapid.IntRange(0, 8).Draw(t, "rules")] {
		set.Rules[name] = genRule(name).Draw(t, name)
	}
	return set
}

func propertyRequests(protocol Protocol) []Request {
	var out []Request
	if protocol == TCP {
		for _, port := range []uint16{0, 5432, 5433, 99} { // no condition of these reads more
			out = append(out, Request{Protocol: TCP, Port: port})
		}
		return append(out, Request{Protocol: HTTP, Method: "GET", Path: "/a"}, Request{})
	}
	paths := []string{
		"/", "/a", "/a/", "/b", "/a/b", "/a/b/", "/a/c", "/a.b/c", "/b/a", "/a/b/c", "/a/a/a", "/a/b/c/a", "/c/b/a/a/b", "/a/b/c/",
		"/%21", "/!", "/*", "/%2A", "/a%20b", "/a/%21", "/a/!/b", "/%C3%A9/a", "/a%2Fb", "/a/a%2Fb", "//a", "/a//b", "/x/y/z/a", "/%7Bx%7D",
	}
	for _, path := range paths {
		for i, method := range []string{"GET", "POST", "DELETE", "get", "PURGE", "LINK"} {
			r := Request{Protocol: protocol, Method: method, Path: path}
			switch (len(out) + i) % 5 {
			case 1:
				r.Facts = &Facts{Headers: http.Header{"X-Env": {"prod"}}}
			case 2:
				r.Facts, r.Port = &Facts{Headers: http.Header{"X-Env": {"test"}}}, 5432
			case 3:
				r.Facts, r.Port = &Facts{Headers: http.Header{"X-Env": {"prod", "prod"}}}, 80
			}
			out = append(out, r)
		}
	}
	return append(out, Request{Protocol: TCP, Port: 5432}, Request{Method: "GET", Path: "/a"})
}

func resolvePeer(t testing.TB, table *Table, peer string) Peer {
	if peer == "" {
		return table.Anonymous()
	}
	return table.Peer(mustID(t, peer))
}

// Every decision is the one that going over all rules would give, and cites one
// of the rules that give it.
func TestDecisionsAreThoseOfTheReference(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	asked := 0
	rapid.Check(t, func(rt *rapid.T) {
		set := genSet(rt, td)
		if _, err := set.Validate(); err != nil {
			rt.Fatalf("Validate: %v", err)
		}
		service := rapid.SampledFrom([]string{"orders", "calls", "db", "seen"}).Draw(rt, "service")
		table := mustCompile(t, set, service)
		sliced := mustCompile(t, set.Slice(service), service)
		for _, peer := range propertyPeers() {
			p, sp := resolvePeer(t, table, peer), resolvePeer(t, sliced, peer)
			for _, r := range propertyRequests(set.Services[service].Protocol) {
				asked++
				want := reference(set, service, peer, r)
				got := table.Decide(p, r)
				if got.Reason == CondError && got.Rule != "" { // a deny that could not be evaluated denies like one that could
					got.Reason = DenyRule
					if set.Rules[got.Rule].Guardrail {
						got.Reason = GuardrailDeny
					}
				}
				if !want.agrees(got) {
					rt.Fatalf("%s %+v: got %+v, want %+v", peer, r, got, want)
				}
				got = table.Decide(p, r)
				if again := sliced.Decide(sp, r); again != got {
					rt.Fatalf("%s %+v: slice says %+v, set says %+v", peer, r, again, got)
				}
			}
		}
	})
	t.Logf("%d decisions compared", asked)
}

// Taking away the rule that decided leaves what the other rules say, until
// nothing is left but the default deny.
func TestWithoutTheCitedRuleTheRestDecides(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	rapid.Check(t, func(rt *rapid.T) {
		set := genSet(rt, td)
		service := rapid.SampledFrom([]string{"orders", "calls", "db", "seen"}).Draw(rt, "service")
		peer := rapid.SampledFrom(propertyPeers()).Draw(rt, "peer")
		r := rapid.SampledFrom(propertyRequests(set.Services[service].Protocol)).Draw(rt, "request")
		for range len(set.Rules) + 1 {
			table := mustCompile(t, set, service)
			d := table.Explain(resolvePeer(t, table, peer), r)
			want := reference(set, service, peer, r)
			if d.Effect != want.effect || d.Observed != want.observed || d.Reason != want.reason && d.Reason != CondError {
				rt.Fatalf("got %+v, want %+v", d, want)
			}
			if d.Near.Rule != "" && d.Rule == "" && len(set.Rules[d.Near.Rule].Allow) == 0 {
				rt.Fatalf("near miss %+v names a rule that allows nothing", d.Near)
			}
			if d.Rule == "" {
				return
			}
			set.Rules = maps.Clone(set.Rules)
			delete(set.Rules, d.Rule)
		}
		rt.Fatalf("still decided by a rule when none is left")
	})
}
