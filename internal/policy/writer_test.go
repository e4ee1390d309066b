package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/fault"
)

// teamed is the services of the property tests, shared out: orders and batch are
// shop's, calls and seen are stock's, db and web nobody's.
func teamed(set Set) Set {
	set.Teams = map[string]Team{
		"shop":  {Name: "shop", Identities: []string{"/n/**", "/a/*"}, TrustDomains: []string{"other.example"}},
		"stock": {Name: "stock", Identities: []string{"/m/**"}},
		"sre":   {Name: "sre", Platform: true},
	}
	for name, team := range map[string]string{"orders": "shop", "batch": "shop", "calls": "stock", "seen": "stock"} {
		svc := set.Services[name]
		svc.Team = team
		set.Services[name] = svc
	}
	return set
}

// genEdit makes one change of a set, of any service or rule whoever's it is.
func genEdit(t *rapid.T, set Set) (next Set, service, rule string) {
	next = set
	next.Services, next.Rules = maps.Clone(set.Services), maps.Clone(set.Rules)
	if rapid.Bool().Draw(t, "rule") {
		rule = rapid.SampledFrom([]string{"r-a", "r-b", "r-w", "r-z", "mine"}).Draw(t, "of")
		if _, there := next.Rules[rule]; there && rapid.IntRange(0, 2).Draw(t, "drop") == 0 {
			delete(next.Rules, rule)
			return next, "", rule
		}
		next.Rules[rule] = genRule(rule).Draw(t, "edited")
		return next, "", rule
	}
	service = rapid.SampledFrom([]string{"orders", "orders", "batch", "batch", "calls", "web", "db", "seen", "fresh", "fresh"}).Draw(t, "service")
	svc, there := next.Services[service]
	if there && rapid.IntRange(0, 5).Draw(t, "remove") == 0 {
		delete(next.Services, service)
		return next, service, ""
	}
	if !there {
		svc = Service{Name: service, Protocol: HTTP, Team: "shop"}
	}
	pool := []string{"/n/batch", "/n", "/n/web/x", "/n/orders", "/a/x"}
	if rapid.IntRange(0, 3).Draw(t, "beyond") == 0 {
		pool = append(pool, "/n/web", "/m/calls", "/n/calls", "/n/db", "/n/seen", "spiffe://other.example/n/web")
	}
	if !there || rapid.Bool().Draw(t, "identities") {
		svc.Identities = rapid.SliceOfNDistinct(rapid.SampledFrom(pool), 1, 3, rapid.ID[string]).Draw(t, "ids")
	}
	switch rapid.IntRange(0, 4).Draw(t, "field") {
	case 0:
		svc.Team = rapid.SampledFrom([]string{"shop", "shop", "stock", ""}).Draw(t, "team")
	case 1:
		svc.Mode = rapid.SampledFrom([]Mode{Enforce, Observe}).Draw(t, "mode")
	case 2:
		if svc.Protocol != TCP {
			svc.Forwarded = Forwarded{By: genSources(t, "by", 1), Hops: 1}
		}
	}
	next.Services[service] = svc
	return next, service, ""
}

// permitted is what the server asks before it makes a change.
func permitted(w Writer, before, after Set, service, rule string) error {
	if service != "" {
		return w.MayChangeService(before, after, service)
	}
	return w.MayChangeRule(before, after, rule)
}

// Whatever the operators of one team do one after the other, as far as they are
// let: no decision of a service that is not theirs turns from deny to allow.
func TestNoTeamWidensAnothersService(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	accepted, refused := 0, 0
	w := Writer{Teams: []string{"shop"}}
	rapid.Check(t, func(rt *rapid.T) {
		set := teamed(genSet(rt, td))
		for i, r := range []Rule{
			{From: []string{"batch"}, To: "calls", Allow: []string{"grpc *"}},
			{From: []string{"any"}, To: "seen", Deny: []string{"* /{**}"}, Guardrail: true, Except: []string{"batch"}},
			{From: []string{"orders"}, To: "db", Allow: []string{"tcp"}},
			{From: []string{"any"}, To: "calls", Deny: []string{"* /a/{**}"}},
		} {
			if rapid.Bool().Draw(rt, "also") {
				r.Name = "r-" + string(rune('w'+i))
				set.Rules[r.Name] = r
			}
		}
		foreign := []string{"calls", "seen", "db", "web"}
		before := decisions(t, set, foreign)
		for range rapid.IntRange(1, 8).Draw(rt, "edits") {
			next, service, rule := genEdit(rt, set)
			if _, err := next.Validate(); err != nil {
				continue
			}
			if err := permitted(w, set, next, service, rule); err != nil {
				if !fault.Is(err, fault.Denied) || fault.HintOf(err) == "" {
					rt.Fatalf("refused without saying what to type: %v", err)
				}
				refused++
				continue
			}
			accepted++
			set = next
			after := decisions(t, set, foreign)
			for i, d := range after {
				if before[i] == Deny && d == Allow {
					rt.Fatalf("edit of service %q, rule %q opened %s\n%+v", service, rule, foreign, set)
				}
			}
			before = after
		}
	})
	if accepted == 0 || refused == 0 {
		t.Errorf("%d edits accepted, %d refused: the property was not tried", accepted, refused)
	}
	t.Logf("%d edits accepted, %d refused", accepted, refused)
}

// decisions is every effect that the property's peers and requests meet.
func decisions(t *testing.T, set Set, services []string) (out []Effect) {
	for _, name := range services {
		table := mustCompile(t, set, name)
		for _, peer := range propertyPeers() {
			p := resolvePeer(t, table, peer)
			for i, r := range propertyRequests(set.Services[name].Protocol) {
				if i%7 == 0 || r.Protocol == TCP {
					out = append(out, table.Decide(p, r).Effect)
				}
			}
		}
	}
	return out
}

// What each kind of writer may do, and what the refusal says.
func TestWhoMayChangeWhat(t *testing.T) {
	base := teamed(newSet(t, propertyServices(), Rule{Name: "in", From: []string{"orders"}, To: "calls", Allow: []string{"grpc *"}}))
	seen := base.Services["seen"]
	seen.Proof.Audience = "https://seen"
	base.Services["seen"] = seen
	put := func(change func(Set)) Set {
		next := base
		next.Services, next.Rules = maps.Clone(base.Services), maps.Clone(base.Rules)
		change(next)
		return next
	}
	rule := func(r Rule) Set { r.Name = "r"; return put(func(s Set) { s.Rules["r"] = r }) }
	service := func(name string, change func(*Service)) Set {
		svc := base.Services[name]
		svc.Name = name
		change(&svc)
		return put(func(s Set) { s.Services[name] = svc })
	}
	get := []string{"GET /a"}
	shop, stock, sre, free := Writer{Teams: []string{"shop"}}, Writer{Teams: []string{"stock"}}, Writer{Teams: []string{"sre"}}, Writer{}
	admin := Writer{Platform: true}
	for _, c := range []struct {
		name, service string
		after         Set
		may           []Writer
		refused       Writer
		says, hint    string
	}{
		{"own rule", "", rule(Rule{From: []string{"web"}, To: "orders", Allow: get}), []Writer{shop, sre, free, admin}, stock, "service orders is of team shop", "an operator of team shop can"},
		{"own deny", "", rule(Rule{From: []string{"any"}, To: "orders", Deny: get}), []Writer{shop, sre, free, admin}, stock, "service orders is of team shop", "or an admin"},
		{"rule to nobody's service", "", rule(Rule{From: []string{"any"}, To: "web", Allow: get}), []Writer{sre, free, admin}, shop, "service web is no team's", "kith services edit web --team shop"},
		{"guardrail", "", rule(Rule{From: []string{"any"}, To: "orders", Deny: get, Guardrail: true}), []Writer{sre, admin}, free, "is a guardrail", "ask an admin"},
		{"boundary", "", rule(Rule{From: []string{"any"}, To: "orders", Boundary: get}), []Writer{sre, admin}, shop, "is a boundary", "platform: true"},
		{"rule to all", "", rule(Rule{From: []string{"web"}, To: "any", Allow: []string{"GET /a", "tcp"}}), []Writer{sre, admin}, free, "to more than one service is the platform's", "by its name"},
		{"own peers of another trust domain", "", rule(Rule{From: []string{"spiffe://other.example/**"}, To: "orders", Allow: get}), []Writer{shop, sre, free, admin}, stock, "team shop", ""},
		{"peers of a trust domain not given", "", rule(Rule{From: []string{"spiffe://third.example/**"}, To: "orders", Allow: get}), []Writer{sre, free, admin}, shop, "trust domain third.example, which team shop was not given", "kith ids teams edit shop --trust-domain third.example"},
		{"the same by a service's name", "", rule(Rule{From: []string{"batch"}, To: "calls", Allow: []string{"grpc *"}}), []Writer{sre, free, admin}, stock, "trust domain other.example", "kith ids teams edit stock"},
		{"excepted from a deny", "", rule(Rule{From: []string{"any"}, To: "orders", Deny: get, Except: []string{"spiffe://third.example/x"}}), []Writer{sre, admin}, shop, "third.example", ""},
		{"own service", "batch", service("batch", func(s *Service) { s.Mode = Observe }), []Writer{shop, sre, free, admin}, stock, "of team shop", ""},
		{"new service", "fresh", service("fresh", func(s *Service) { s.Protocol, s.Team, s.Identities = HTTP, "shop", []string{"/n/fresh"} }), []Writer{shop, sre, free, admin}, stock, "would become one of team shop", ""},
		{"new service of nobody", "fresh", service("fresh", func(s *Service) { s.Protocol, s.Identities = HTTP, []string{"/n/fresh"} }), []Writer{sre, free, admin}, shop, "would belong to no team", "--team shop"},
		{"giving a service away", "batch", service("batch", func(s *Service) { s.Team = "stock" }), []Writer{sre, free, admin}, shop, "not yours", ""},
		{"an ID of others", "batch", service("batch", func(s *Service) { s.Identities = []string{"/eks/pay/x"} }), []Writer{sre, free, admin}, shop, "is no ID of team shop, whose are: /n/**, /a/*", "kith ids teams edit shop --identity /eks/pay/x"},
		{"an ID of another service", "batch", service("batch", func(s *Service) { s.Identities = []string{"/n/db"} }), []Writer{sre, free, admin}, shop, "is service db, which is not yours", ""},
		{"an audience of its own", "batch", service("batch", func(s *Service) { s.Proof.Audience = "https://batch" }), []Writer{shop, sre, free, admin}, stock, "of team shop", ""},
		{"an audience of another service", "batch", service("batch", func(s *Service) { s.Proof = Proof{Audience: "https://seen", Via: "https://lb.shop"} }), []Writer{sre, free, admin}, shop, "proofs for \"https://seen\" are for service seen, which is not yours", "ask team stock"},
		{"an ID that others' rules go by", "orders", service("orders", func(s *Service) { s.Identities = append(slices.Clone(s.Identities), "/n/more") }), []Writer{sre, free, admin}, shop, "rule in names service orders", "ask team stock"},
	} {
		name := "r"
		if c.service != "" {
			name = ""
		}
		for _, w := range c.may {
			if err := permitted(w, base, c.after, c.service, name); err != nil {
				t.Errorf("%s: %+v: %v", c.name, w, err)
			}
		}
		err := permitted(c.refused, base, c.after, c.service, name)
		if !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), c.says) || !strings.Contains(fault.HintOf(err), c.hint) {
			t.Errorf("%s: %+v got %v (%s), want %q (%q)", c.name, c.refused, err, fault.HintOf(err), c.says, c.hint)
		}
	}
}

// A rule cannot be carried off from a service that is not one's own.
func TestRuleIsNotMovedFromAnothersService(t *testing.T) {
	deny := Rule{Name: "keep", From: []string{"any"}, To: "calls", Deny: []string{"grpc *"}}
	before := teamed(newSet(t, propertyServices(), deny))
	after := before
	after.Rules = map[string]Rule{"keep": {Name: "keep", From: []string{"any"}, To: "orders", Deny: []string{"GET /a"}}}
	if err := (Writer{Teams: []string{"shop"}}).MayChangeRule(before, after, "keep"); !fault.Is(err, fault.Denied) {
		t.Errorf("got %v, want Denied", err)
	}
}

func TestTeamsAreChecked(t *testing.T) {
	set := newSet(t, []Service{{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP, Team: "shp"}})
	set.Teams = map[string]Team{
		"shop": {Name: "shop", Identities: []string{"any", "/a/**/b", "web"}, TrustDomains: []string{"No Domain"}},
		"x":    {Name: "y"},
	}
	_, err := set.Validate()
	for _, want := range []string{"services.orders.team: unknown team \"shp\"", "teams.shop.identities[0]", "teams.shop.identities[1]", "teams.shop.identities[2]", "teams.shop.trust_domains[0]", "teams.x: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// Attack 69: a guardrail binds a service by name. Whoever may not write it cannot
// have its workload answer for another service of the same ID instead.
func TestNoServiceLeavesAGuardrailByAnotherName(t *testing.T) {
	td := trustDomain(t)
	orders := Service{Name: "orders", Identities: []string{"/n/orders", "/n"}, Protocol: HTTP, Team: "shop"}
	set := func(services ...Service) Set {
		s := Set{TrustDomain: td, Revision: 1, Services: map[string]Service{}, Teams: map[string]Team{
			"shop": {Name: "shop", Identities: []string{"/n/**"}}, "sre": {Name: "sre", Platform: true},
		}, Rules: map[string]Rule{"fence": {Name: "fence", From: []string{"any"}, To: "orders", Boundary: []string{"GET /{**}"}}}}
		for _, svc := range services {
			s.Services[svc.Name] = svc
		}
		return s
	}
	named := func(name string, ids ...string) Service {
		return Service{Name: name, Identities: ids, Protocol: HTTP, Team: "shop"}
	}
	for _, c := range []struct {
		name          string
		before, after Set
		service       string
		refused       bool
	}{
		{"a second name", set(orders), set(orders, named("twin", "/n/orders")), "twin", true},
		{"a second name for one of its IDs", set(orders, named("twin", "/n/x")), set(orders, named("twin", "/n/x", "/n")), "twin", true},
		{"its ID taken out", set(orders), set(named("orders", "/n")), "orders", true},
		{"an ID of its own", set(orders), set(orders, named("twin", "/n/twin")), "twin", false},
		{"one ID more", set(orders), set(named("orders", "/n/orders", "/n", "/n/more")), "orders", false},
		{"the ID of a second name", set(orders, named("twin", "/n/x")), set(named("orders", "/n/orders", "/n", "/n/x"), named("twin", "/n/x")), "orders", true},
		{"another field", set(orders, named("twin", "/n/orders")), set(orders, Service{Name: "twin", Identities: []string{"/n/orders"}, Protocol: HTTP, Team: "shop", Mode: Observe}), "twin", false},
	} {
		for _, w := range []Writer{{Teams: []string{"shop"}}, {}} {
			err := w.MayChangeService(c.before, c.after, c.service)
			if c.refused != fault.Is(err, fault.Denied) || (err != nil) != (fault.HintOf(err) != "") {
				t.Errorf("%s by %v: got %v, want refused: %t, with a hint", c.name, w.Teams, err, c.refused)
			}
		}
		for _, w := range []Writer{{Platform: true}, {Teams: []string{"sre"}}} {
			if err := w.MayChangeService(c.before, c.after, c.service); err != nil {
				t.Errorf("%s by the platform: %v", c.name, err)
			}
		}
	}
	found, err := set(orders, named("twin", "/n/orders")).Lint()
	if err != nil || !slices.ContainsFunc(found, func(f Finding) bool {
		return f.At == "rules.fence.to" && strings.HasPrefix(f.What, "binds orders by its name, and not twin") && f.Fix == "to: /n/orders"
	}) {
		t.Errorf("the platform is not told: %v %+v", err, found)
	}
}

// Attack 69: nor does a caller leave a guardrail, or join those it excepts, by what a
// service is that it names, for one who has all services and not the platform's tier.
func TestNoCallerLeavesAGuardrailByItsServicesIDs(t *testing.T) {
	web := Service{Name: "web", Identities: []string{"/n/web", "/n/batch"}, Protocol: HTTP}
	orders := Service{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP}
	set := func(web Service, r Rule) Set { r.Name = "r"; return newSet(t, []Service{orders, web}, r) }
	get := []string{"GET /{**}"}
	fewer, more, other := web, web, web
	fewer.Identities, more.Identities, other.Mode = []string{"/n/web"}, []string{"/n/web", "/n/batch", "/n/evil"}, Observe
	for name, c := range map[string]struct {
		rule    Rule
		refused bool
	}{
		"a guardrail from it":           {Rule{From: []string{"web"}, To: "orders", Deny: get, Guardrail: true}, true},
		"a guardrail that excepts it":   {Rule{From: []string{"any"}, To: "orders", Deny: get, Guardrail: true, Except: []string{"web"}}, true},
		"a boundary from it":            {Rule{From: []string{"web"}, To: "orders", Boundary: get}, true},
		"a rule to many from it":        {Rule{From: []string{"web"}, To: "/n/*", Allow: get}, true},
		"a rule of the service's own":   {Rule{From: []string{"web"}, To: "orders", Allow: get}, false},
		"a guardrail that is of others": {Rule{From: []string{"/n/web"}, To: "orders", Deny: get, Guardrail: true}, false},
	} {
		for _, after := range []Service{fewer, more, other} {
			refused := c.refused && after.Mode != Observe
			err := (Writer{}).MayChangeService(set(web, c.rule), set(after, c.rule), "web")
			if refused != fault.Is(err, fault.Denied) || refused != strings.Contains(fault.HintOf(err), "ask an admin") {
				t.Errorf("%s, then %v: got %v (%s), want refused: %t", name, after.Identities, err, fault.HintOf(err), refused)
			}
			if err := (Writer{Teams: []string{"sre"}}).MayChangeService(teamed(set(web, c.rule)), teamed(set(after, c.rule)), "web"); err != nil {
				t.Errorf("%s, by the platform: %v", name, err)
			}
		}
	}
}
