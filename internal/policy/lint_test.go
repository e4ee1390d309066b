package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// lessAt is the set less the action, or the rule, at the place of a finding.
func lessAt(t *rapid.T, set Set, at string) Set {
	set.Rules = maps.Clone(set.Rules)
	parts := strings.SplitN(at, ".", 3)
	if len(parts) != 3 || parts[0] != "rules" {
		t.Fatalf("finding at %q", at)
	}
	r, ok := set.Rules[parts[1]]
	if !ok {
		t.Fatalf("finding at %q names no rule", at)
	}
	var field string
	var i int
	if n, _ := fmt.Sscanf(strings.NewReplacer("[", " ", "]", "").Replace(parts[2]), "%s %d", &field, &i); n < 2 {
		delete(set.Rules, r.Name)
		return set
	}
	list := map[string]*[]string{"allow": &r.Allow, "deny": &r.Deny, "boundary": &r.Boundary}[field]
	*list = slices.Delete(slices.Clone(*list), i, i+1)
	if len(r.Deny) == 0 {
		r.Except, r.Guardrail = nil, false
	}
	if set.Rules[r.Name] = r; len(r.Allow)+len(r.Deny)+len(r.Boundary) == 0 {
		delete(set.Rules, r.Name)
	}
	return set
}

// occurring are the requests that an enforcement point can ask about.
func occurring(svc Service) []Request {
	return slices.DeleteFunc(propertyRequests(svc.Protocol), func(r Request) bool {
		if r.Protocol == TCP || r.Protocol == 0 {
			return r.Protocol != svc.Protocol
		}
		path, err := NormalizePath(r.Path, svc.Paths)
		return err != nil || path != r.Path || svc.Protocol == GRPC && r.Method != "POST"
	})
}

// What the linter calls without effect has none: without it, every decision is
// the same.
func TestWhatIsCalledInertIsInert(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	tried := map[string]int{}
	wanted := []string{lintShadowed, lintOutside, lintDuplicate, lintWiderExists}
	all := func() bool {
		return !slices.ContainsFunc(wanted, func(id string) bool { return tried[id] == 0 })
	}
	until(t, all, func(rt *rapid.T) {
		set := genSet(rt, td)
		found, err := set.Lint()
		if err != nil {
			rt.Fatalf("Lint: %v", err)
		}
		for _, f := range found {
			if !f.Inert || tried[f.ID] > 40 {
				continue
			}
			less := lessAt(rt, set, f.At)
			if _, err := less.Validate(); err != nil {
				continue // the rest of a rule to many services can be enforced on too few
			}
			tried[f.ID]++
			services := []string{f.Service}
			if f.Service == "" {
				services = []string{"orders", "calls", "db", "seen"}
			}
			for _, name := range services {
				before, after := mustCompile(t, set, name), mustCompile(t, less, name)
				for _, peer := range propertyPeers() {
					p, q := resolvePeer(t, before, peer), resolvePeer(t, after, peer)
					for i, r := range occurring(set.Services[name]) {
						if i%3 == 1 {
							continue
						}
						if a, b := before.Decide(p, r), after.Decide(q, r); a.Effect != b.Effect || a.Observed != b.Observed {
							rt.Fatalf("%s: without it %s %+v on %s is %s, with it %s", f, peer, r, name, b.Effect, a.Effect)
						}
					}
				}
			}
		}
	})
	for _, id := range wanted {
		if tried[id] == 0 {
			t.Errorf("no %s was found in any set: tried %v", id, tried)
		}
	}
	t.Log(tried)
}

func TestFindings(t *testing.T) {
	base := shop()
	rule := func(r Rule) Rule {
		if r.Name == "" {
			r.Name = "r"
		}
		if r.From == nil {
			r.From = []string{"web"}
		}
		if r.To == "" {
			r.To = "orders"
		}
		if r.Allow == nil && r.Deny == nil && r.Boundary == nil {
			r.Allow = []string{"GET /v1"}
		}
		return r
	}
	other := Rule{Name: "s", From: []string{"/n/**"}, To: "orders", Allow: []string{"GET /v1/{**}"}}
	for name, tc := range map[string]struct {
		rules []Rule
		want  []string // ID, place
	}{
		"nothing":                   {[]Rule{rule(Rule{})}, nil},
		"anonymous":                 {[]Rule{rule(Rule{From: []string{"web", "anonymous"}})}, []string{"anonymous-access rules.r.from[1]"}},
		"anonymous denied":          {[]Rule{rule(Rule{From: []string{"anonymous"}, Deny: []string{"GET /v1"}})}, nil},
		"any":                       {[]Rule{rule(Rule{From: []string{"any"}})}, []string{"unscoped-identity rules.r.from[0]"}},
		"a whole trust domain":      {[]Rule{rule(Rule{From: []string{"spiffe://other.example/**"}})}, []string{"unscoped-identity rules.r.from[0]"}},
		"any class":                 {[]Rule{rule(Rule{From: []string{"/*/web"}})}, []string{"unscoped-identity rules.r.from[0]"}},
		"one class":                 {[]Rule{rule(Rule{From: []string{"/n/*"}})}, nil},
		"every service":             {[]Rule{rule(Rule{To: "any", Allow: []string{"GET /v1", "tcp"}})}, []string{"unscoped-target rules.r.to"}},
		"path prefix":               {[]Rule{rule(Rule{When: `request.path.startsWith("/admin")`})}, []string{"prefix-without-boundary rules.r.when"}},
		"path prefix to its end":    {[]Rule{rule(Rule{When: `request.path.startsWith("/admin/")`})}, nil},
		"caller prefix":             {[]Rule{rule(Rule{When: `!peer.id.startsWith("spiffe://acme.example/n/w")`})}, []string{"prefix-without-boundary rules.r.when"}},
		"host suffix":               {[]Rule{rule(Rule{When: `request.host.endsWith("shop.example")`})}, []string{"prefix-without-boundary rules.r.when"}},
		"host suffix from its dot":  {[]Rule{rule(Rule{When: `request.host.endsWith(".shop.example")`})}, nil},
		"path contains":             {[]Rule{rule(Rule{When: `request.path.contains("admin")`})}, []string{"unanchored-match rules.r.when"}},
		"path matches":              {[]Rule{rule(Rule{When: `request.path.matches("/v[0-9]+")`})}, []string{"unanchored-match rules.r.when"}},
		"path matches whole":        {[]Rule{rule(Rule{When: `request.path.matches("^/v[0-9]+$")`})}, nil},
		"never":                     {[]Rule{rule(Rule{When: `request.headers["x-a"] == "1" && request.headers["x-a"] == "2"`})}, []string{"never-matches rules.r.when"}},
		"false":                     {[]Rule{rule(Rule{When: `false`})}, []string{"never-matches rules.r.when"}},
		"method ruled out":          {[]Rule{rule(Rule{When: `request.method == "POST"`})}, []string{"never-matches rules.r.allow[0]"}},
		"path ruled out":            {[]Rule{rule(Rule{Allow: []string{"GET /v1/{id}"}, When: `request.path == "/v1/a/b"`})}, []string{"never-matches rules.r.allow[0]"}},
		"path not ruled out":        {[]Rule{rule(Rule{Allow: []string{"GET /v1/{id}"}, When: `request.path == "/v1/a"`})}, nil},
		"path not only":             {[]Rule{rule(Rule{When: `request.path == "/v2" || request.port == 1`})}, nil},
		"express":                   {[]Rule{rule(Rule{Allow: []string{"GET /v1/:id"}})}, []string{"ambiguous-template rules.r.allow[0]"}},
		"twice":                     {[]Rule{rule(Rule{Allow: []string{"GET /{id}/x/{id}"}})}, []string{"ambiguous-template rules.r.allow[0]"}},
		"within another":            {[]Rule{rule(Rule{}), other}, []string{"wider-rule-exists rules.r.allow[0]"}},
		"not within a conditional":  {[]Rule{rule(Rule{}), func() Rule { o := other; o.When = "request.port == 1"; return o }()}, nil},
		"said twice":                {[]Rule{rule(Rule{}), rule(Rule{Name: "t"})}, []string{"duplicate-rule rules.t.allow[0]"}},
		"outside":                   {[]Rule{rule(Rule{}), rule(Rule{Name: "b", Boundary: []string{"POST /{**}"}})}, []string{"outside-boundary rules.r.allow[0]"}},
		"inside":                    {[]Rule{rule(Rule{}), rule(Rule{Name: "b", Boundary: []string{"POST /{**}", "GET /*"}})}, nil},
		"denied under a condition":  {[]Rule{rule(Rule{}), rule(Rule{Name: "d", Deny: []string{"* /{**}"}, When: "request.port == 1"})}, nil},
		"denied in shadow":          {[]Rule{rule(Rule{}), rule(Rule{Name: "d", Deny: []string{"* /{**}"}, Mode: Shadow})}, nil},
		"denied":                    {[]Rule{rule(Rule{}), rule(Rule{Name: "d", Deny: []string{"* /{**}"}})}, []string{"shadowed-by-deny rules.r.allow[0]"}},
		"any excepts its own alone": {[]Rule{rule(Rule{From: []string{"spiffe://o.example/a"}, Deny: []string{"GET /v1"}, Except: []string{"any"}})}, nil},
	} {
		found, err := newSet(t, base, tc.rules...).Lint()
		var got []string
		for _, f := range found {
			got = append(got, f.ID+" "+f.At)
			if !slices.ContainsFunc(Lints(), func(k LintKind) bool { return k.ID == f.ID && k.Why != "" }) {
				t.Errorf("%s: %s is not listed", name, f.ID)
			}
		}
		if err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, tc.want)
		}
	}
}
