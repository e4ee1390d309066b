package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

func shop() []Service {
	return []Service{
		{Name: "orders", Identities: []string{"/n/orders"}, Protocol: HTTP},
		{Name: "web", Identities: []string{"/n/web"}, Protocol: HTTP},
		{Name: "db", Identities: []string{"/n/db"}, Protocol: TCP},
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	set := newSet(t, append(shop(),
		Service{Name: "bad", Identities: []string{"/kith/node/x", "n/x", "/a/../b", "/a", "/a"}, RunAs: []string{"ok", "a b", "%", "-x"}, Endpoints: []string{"host", "10.0.0.1:0", "[::1]:80"}},
		Service{Name: "any", Identities: []string{"/n/any"}, Protocol: HTTP},
		Service{Name: "plain", Identities: []string{"/n/plain"}, Protocol: TCP, Paths: PathOptions{KeepDoubleSlash: true}},
	),
		Rule{Name: "web-reads", From: []string{"wed", "any"}, To: "order", Allow: []string{"GET /v1"}},
		Rule{Name: "twisted", From: []string{"web"}, To: "db", Allow: []string{"GET /", "tcp x"}, Except: []string{"web"}},
		Rule{Name: "rail", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, Guardrail: true},
		Rule{Name: "Loud", From: []string{"web"}, To: "anonymous", Deny: []string{"GET /"}},
		Rule{Name: "nowhere", From: []string{"web"}, To: "/n/ordesr", Deny: []string{"GET /"}},
		Rule{Name: "abroad", From: []string{"web"}, To: "spiffe://other.example/n/orders", Deny: []string{"GET /"}},
	)
	set.Services["alias"] = set.Services["web"]
	set.Rules["moved"] = Rule{Name: "stays", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}}
	warnings, err := set.Validate()
	if !fault.Is(err, fault.Invalid) || warnings != nil {
		t.Fatalf("got %v, %v; want an Invalid error alone", warnings, err)
	}
	got := strings.Split(err.Error(), "\n")
	for _, want := range []string{
		`services.bad.protocol: unknown protocol (protocols are http, grpc and tcp)`,
		`services.bad.identities[0]: "/kith/node/x": /kith/ is reserved for nodes and servers`,
		`services.bad.identities[1]: SPIFFE ID "n/x" does not begin with "spiffe://" (a path of the own trust domain, as in /vms/orders, or a whole spiffe:// ID)`,
		`services.bad.identities[2]: "/a/../b": path has the segment ".."`,
		`services.bad.identities[4]: "/a" is listed twice`,
		`services.bad.run_as[1]: "a b" is no user, uid or %group (as in [orders, 1000, %shop])`,
		`services.bad.endpoints[0]: "host" is no host:port (as in 10.0.0.7:8443)`,
		`services.any: name "any" is reserved`,
		`services.plain.paths: a tcp service has no paths`,
		`services.alias: is kept under another name than its own, "web"`,
		`rules.web-reads.from[0]: unknown service "wed" (did you mean web?)`,
		`rules.web-reads.to: unknown service "order" (did you mean orders?)`,
		`rules.twisted.allow[0]: "GET /" cannot be enforced: db is a tcp service (say "tcp", or give db protocol: http)`,
		`rules.twisted.allow[1]: port "x" is not a number from 1 to 65535 (as in "tcp 5432"; "tcp" alone is every port)`,
		`rules.twisted.except: there is no deny to except from (an allow lists who is allowed in from)`,
		`rules.rail.allow: a guardrail only denies (put the allow in a rule of its own)`,
		`rules: name "Loud": only a-z, 0-9 and inner hyphens (names are lower-case, as in web-reads)`,
		`rules.Loud.to: a service always has an identity`,
		`rules.nowhere.to: no service has the identity "/n/ordesr"`,
		`rules.abroad.to: no service has the identity "spiffe://other.example/n/orders"`,
		`rules.moved: is kept under another name than its own, "stays"`,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("missing %s", want)
		}
	}
	if t.Failed() || fault.HintOf(err) == "" {
		t.Log(err)
		t.Error("the first hint is lost")
	}
	if set := (Set{}); func() error { _, err := set.Validate(); return err }() == nil {
		t.Error("a set without a trust domain is valid")
	}
}

func TestAServiceThatARuleNamesCannotBeLeftOut(t *testing.T) {
	for _, r := range []Rule{
		{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}},
		{Name: "r", From: []string{"any"}, To: "web", Allow: []string{"GET /"}},
		{Name: "r", From: []string{"any"}, To: "orders", Deny: []string{"GET /"}, Except: []string{"web"}},
	} {
		set := newSet(t, shop(), r)
		if warnings, err := set.Validate(); err != nil || len(warnings) != 0 {
			t.Fatalf("%+v: %v %v", r, warnings, err)
		}
		delete(set.Services, "web")
		if _, err := set.Validate(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), `unknown service "web"`) {
			t.Errorf("%+v: got %v", r, err)
		}
		if _, err := Compile(set, "orders"); (err == nil) != (r.To == "web") {
			t.Errorf("%+v: Compile: %v", r, err)
		}
	}
}

func TestAttack35Warnings(t *testing.T) {
	base := shop()
	calls := Service{Name: "calls", Identities: []string{"/n/calls"}, Protocol: GRPC}
	for name, tc := range map[string]struct {
		services []Service
		rules    []Rule
		want     []string // beginnings
	}{
		"nothing to say": {base, []Rule{{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /v1/{**}"}}}, nil},
		"refused paths": {base, []Rule{{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /a//b", "GET /a%2Fb"}}}, []string{
			"rules.r.allow[0]: can never match: paths with // are refused", "rules.r.allow[1]: can never match: paths with %2F are refused",
		}},
		"method case": {base, []Rule{{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"get /a"}}}, []string{"rules.r.allow[0]: method get is not GET"}},
		"not POST":    {append(base, calls), []Rule{{Name: "r", From: []string{"web"}, To: "calls", Allow: []string{"GET /a/b"}}}, []string{"rules.r.allow[0]: gRPC calls are POST"}},
		"no target":   {base, []Rule{{Name: "r", From: []string{"web"}, To: "/x/**", Deny: []string{"* /{**}"}}}, []string{"rules.r.to: no service has an identity like /x/**"}},
		"shadowed": {base, []Rule{
			{Name: "a", From: []string{"web"}, To: "orders", Allow: []string{"GET /v1/{id}", "GET /v2"}},
			{Name: "d", From: []string{"/n/*"}, To: "orders", Deny: []string{"* /v1/{**}"}},
		}, []string{"rules.a.allow[0]: has no effect on orders: rule d denies all of it"}},
		"not shadowed": {base, []Rule{
			{Name: "a", From: []string{"web", "any"}, To: "orders", Allow: []string{"GET /v1/{id}"}},
			{Name: "d", From: []string{"/n/*"}, To: "orders", Deny: []string{"* /v1/{**}"}},
			{Name: "e", From: []string{"any"}, To: "orders", Deny: []string{"GET /v1/{**}"}, Except: []string{"web"}},
		}, nil},
		"shadowed port": {base, []Rule{
			{Name: "a", From: []string{"web"}, To: "db", Allow: []string{"tcp 5432"}},
			{Name: "d", From: []string{"any"}, To: "db", Deny: []string{"tcp"}},
		}, []string{"rules.a.allow[0]: has no effect on db"}},
		"slash gap": {base, []Rule{
			{Name: "a", From: []string{"any"}, To: "orders", Allow: []string{"GET /{**}"}},
			{Name: "d", From: []string{"web"}, To: "orders", Deny: []string{"* /admin"}},
		}, []string{"rules.d.deny[0]: leaves /admin/ open through rule a"}},
		"denies nobody": {base, []Rule{{Name: "d", From: []string{"web"}, To: "orders", Deny: []string{"GET /"}, Except: []string{"/n/*"}}}, []string{"rules.d.except: frees every source"}},
		"two services":  {append(base, Service{Name: "twin", Identities: []string{"/n/web"}, Protocol: HTTP}), nil, []string{"services.web.identities: spiffe://acme.example/n/web is twin too"}},
	} {
		got, err := newSet(t, tc.services, tc.rules...).Validate()
		ok := err == nil && len(got) == len(tc.want)
		for i := range tc.want {
			ok = ok && strings.HasPrefix(got[i], tc.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, %v; want %q", name, got, err, tc.want)
		}
	}
}

func TestThreatT15ListsAreBounded(t *testing.T) {
	many := slices.Repeat([]string{"web"}, 2000)
	for name, set := range map[string]Set{
		"from":       newSet(t, shop(), Rule{Name: "r", From: many, To: "orders", Allow: []string{"GET /"}}),
		"except":     newSet(t, shop(), Rule{Name: "r", From: []string{"any"}, To: "orders", Deny: []string{"GET /"}, Except: many}),
		"allow":      newSet(t, shop(), Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: slices.Repeat([]string{"GET /"}, 2000)}),
		"deny":       newSet(t, shop(), Rule{Name: "r", From: []string{"web"}, To: "orders", Deny: slices.Repeat([]string{"GET /"}, 2000)}),
		"run_as":     newSet(t, append(shop(), Service{Name: "x", Identities: []string{"/x"}, Protocol: HTTP, RunAs: many})),
		"identities": newSet(t, append(shop(), Service{Name: "x", Identities: slices.Repeat([]string{"/x"}, 2000), Protocol: HTTP})),
	} {
		if _, err := set.Validate(); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name+": 2000 entries, at most") {
			t.Errorf("%s: got %.200v", name, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "web-reads", "0web", "x1", strings.Repeat("a", 63)} {
		if err := ValidateName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "A", "-a", "a-", "a_b", "a.b", "a/b", "é", "127", "0x7f", "a b", strings.Repeat("a", 64)} {
		if err := ValidateName(name); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want an Invalid error", name, err)
		}
	}
	for slip, want := range map[string]string{"order": "orders", "odrers": "orders", "wbe": "web", "we": "web", "zzz": "", "payments": ""} {
		if got := fault.Nearest(slip, []string{"db", "orders", "web"}); got != want {
			t.Errorf("nearest(%q) = %q, want %q", slip, got, want)
		}
	}
}

func TestMayClaim(t *testing.T) {
	s := Service{RunAs: []string{"orders", "1000", "%shop"}}
	for _, tc := range []struct {
		user   string
		uid    int
		groups []string
		want   bool
	}{
		{"orders", 1, nil, true},
		{"someone", 1000, nil, true},
		{"someone", 1, []string{"x", "shop"}, true},
		{"shop", 1, nil, false},
		{"%shop", 1, nil, false},
		{"1000", 1, []string{"orders", "1000", "%shop"}, false}, // a number is a uid, never a name
		{"", 1, []string{""}, false},
		{"someone", 0, nil, false},
	} {
		if got := s.MayClaim(tc.user, tc.uid, tc.groups); got != tc.want {
			t.Errorf("MayClaim(%q, %d, %q) = %t", tc.user, tc.uid, tc.groups, got)
		}
	}
	for _, who := range [][]string{nil, {""}, {"%"}} {
		if (Service{RunAs: who}).MayClaim("", 0, []string{""}) {
			t.Errorf("run_as %q lets an unnamed caller claim", who)
		}
	}
}

func TestIdentitiesAreWhole(t *testing.T) {
	s := Service{Identities: []string{"/n/web", "spiffe://other.example/x"}}
	ids, err := s.IDs(trustDomain(t))
	want := []spiffe.ID{mustID(t, "/n/web"), mustID(t, "spiffe://other.example/x")}
	if err != nil || !slices.Equal(ids, want) {
		t.Errorf("got %v, %v", ids, err)
	}
	if _, err := (Service{Identities: []string{"/n/*"}}).IDs(trustDomain(t)); err == nil {
		t.Error("a pattern is an identity")
	}
	if diff := cmp.Diff([]string{"a", "orders"}, (Rule{From: []string{"a", "/b", "any"}, Except: []string{"orders"}}).services()); diff != "" {
		t.Error(diff)
	}
}
