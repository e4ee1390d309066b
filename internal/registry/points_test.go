package registry

import (
	"slices"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// The tests named TestPointN hold DESIGN §5, point N.

func domain(t testing.TB) spiffe.TrustDomain {
	t.Helper()
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	return td
}

// compileOne compiles one identity rule for the classes vms and eks.
func compileOne(t testing.TB, rule IdentityRule) (*Identities, []Warning, error) {
	t.Helper()
	if rule.Name == "" {
		rule.Name = "r"
	}
	return CompileIdentities(domain(t), []IdentityRule{rule}, []string{"eks", "vms"})
}

func mustCompile(t testing.TB, rules ...IdentityRule) *Identities {
	t.Helper()
	ids, _, err := CompileIdentities(domain(t), rules, []string{"eks", "vms"})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// workload is a service on a node of class vms.
func workload(extra ...string) Attributes {
	a := Attributes{
		"node.name": "vm-7", "node.attestor": "join_token", "node.class": "vms",
		"workload.unix.uid": "1000", "workload.unix.user": "orders", "workload.unix.gid": "1000",
		"workload.unix.group": "orders", "workload.unix.groups": "docker,orders", "workload.unix.pid": "4711",
		"workload.unix.path": "/usr/bin/orders", "workload.systemd.unit": "orders.service",
	}
	for i := 0; i+1 < len(extra); i += 2 {
		a[extra[i]] = extra[i+1]
	}
	return a
}

func issued(matches []Match) []string {
	var out []string
	for _, m := range matches {
		out = append(out, m.ID.Path())
	}
	return out
}

func TestPoint1NamingAnAttributeRequiresIt(t *testing.T) {
	rule := IdentityRule{Name: "r", ID: "/{node.class}/{workload.systemd.unit|trim(.service)}", Require: `workload.unix.user == "orders"`}
	ids := mustCompile(t, rule)
	for _, absent := range []string{"workload.systemd.unit", "workload.unix.user"} {
		for _, how := range []string{"missing", "empty"} {
			attrs := workload()
			if delete(attrs, absent); how == "empty" {
				attrs[absent] = ""
			}
			matches, outcomes := ids.Evaluate("vms", attrs)
			if len(matches) != 0 || outcomes[0].Result != Missing || outcomes[0].Detail != "no "+absent {
				t.Errorf("%s %s: got %v, %v; want missing", absent, how, matches, outcomes)
			}
		}
	}
	if matches, _ := ids.Evaluate("vms", workload()); !slices.Equal(issued(matches), []string{"/vms/orders"}) {
		t.Errorf("with every attribute: got %v", issued(matches))
	}
	// Empty only after its filter: no empty segment either.
	matches, outcomes := ids.Evaluate("vms", workload("workload.systemd.unit", ".service"))
	if len(matches) != 0 || !strings.Contains(outcomes[0].Detail, "empty after its filters") {
		t.Errorf("unit .service: got %v, %v", issued(matches), outcomes)
	}
}

func TestPoint1RequirementsAreTyped(t *testing.T) {
	for text, want := range map[string]string{
		`workload.unix.uid == "0"`:                   "no matching overload",
		`workload.unix.user == 0`:                    "no matching overload",
		`workload.unix.usr == "x"`:                   "did you mean workload.unix.user?",
		`workload.systemd.unti == "x"`:               "did you mean workload.systemd.unit?",
		`node.clas == "vms"`:                         "did you mean node.class?",
		`present(workload.systemd.unti)`:             "did you mean workload.systemd.unit?",
		`workload.unix.user`:                         "has type string",
		`workload.unix.uid`:                          "has type int",
		`workload.unix.groups == "docker"`:           "no matching overload",
		`workload.unix.user.name == "x"`:             "unknown attribute workload.unix.user.name",
		`user == "x"`:                                "unknown attribute user",
		`dyn(workload.unix.uid) == "0"`:              "undeclared reference to 'dyn'",
		`string(workload.unix.uid) == "0"`:           "undeclared reference to 'string'",
		`has(workload.unix.uid)`:                     "undeclared reference to 'has'",
		`present("workload.unix.uid")`:               "takes an attribute's name",
		`workload.unix.user in ["a", 1]`:             "",
		`workload.unix.user.matches("(")`:            "",
		`workload.unix.uid ==`:                       "Syntax error",
		`workload.unix.groups.exists(node, true)`:    "would hide the attributes",
		`workload.unix.groups.exists(g, g.x == "a")`: "",
		`"a"`: "has type string",
		`timestamp("2026-01-01T00:00:00Z") > now`:                         "unknown attribute now",
		"workload.unix.user == '" + strings.Repeat("a", maxRequire) + "'": "at most",
	} {
		_, _, err := compileOne(t, IdentityRule{ID: "/{node.class}/{workload.unix.user}", Require: text})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "identities.r.require") {
			t.Errorf("%.60s: got %v, want an invalid error with %q", text, err, want)
		}
	}
}

func TestPoint1PresentDoesNotRequire(t *testing.T) {
	ids := mustCompile(t,
		IdentityRule{Name: "loose", ID: "/{node.class}/{workload.unix.user}", Require: `!present(workload.systemd.unit)`},
		IdentityRule{Name: "unit", ID: "/{node.class}/unit/{workload.unix.user}", Require: `present(workload.systemd.unit) && workload.unix.uid != 0`},
	)
	with, without := workload(), workload()
	delete(without, "workload.systemd.unit")
	if matches, _ := ids.Evaluate("vms", with); !slices.Equal(issued(matches), []string{"/vms/unit/orders"}) {
		t.Errorf("with a unit: %v", issued(matches))
	}
	if matches, _ := ids.Evaluate("vms", without); !slices.Equal(issued(matches), []string{"/vms/orders"}) {
		t.Errorf("without a unit: %v", issued(matches))
	}
	_, outcomes := ids.Evaluate("vms", with)
	if want := []string{"node.class", "workload.systemd.unit", "workload.unix.user"}; !slices.Equal(outcomes[0].Attributes, want) {
		t.Errorf("the rule names %v, want %v", outcomes[0].Attributes, want)
	}
}

func TestPoint1AgentsCannotSayNodeAttributes(t *testing.T) {
	ids := mustCompile(t, IdentityRule{Name: "r", ID: "/{node.class}/{node.name}/{workload.unix.user}"})
	own := Node{Name: "vm-7", Class: "vms", Attestor: "join_token", KeyHash: HashOf([]byte("k"))}
	sent := workload("node.name", "vm-1", "node.class", "eks")
	matches, _ := ids.Evaluate(own.Class, Combine(own.Scope(), sent))
	if !slices.Equal(issued(matches), []string{"/vms/vm-7/orders"}) {
		t.Errorf("got %v, want the server's own node attributes", issued(matches))
	}
	// Even unmixed attributes cannot change the class.
	if matches, _ := ids.Evaluate("vms", sent); !strings.HasPrefix(issued(matches)[0], "/vms/") {
		t.Errorf("got %v for a node of class vms", issued(matches))
	}
}

func TestPoint2ClassesAreEnforcedOutsideCEL(t *testing.T) {
	ids := mustCompile(t, IdentityRule{Name: "pods", Nodes: []string{"eks"}, ID: "/fixed/{workload.unix.user}"})
	if matches, outcomes := ids.Evaluate("vms", workload("node.class", "eks")); len(matches) != 0 || outcomes[0].Result != Unmatched {
		t.Errorf("class vms: got %v, %v", issued(matches), outcomes)
	}
	if matches, _ := ids.Evaluate("eks", workload()); !slices.Equal(issued(matches), []string{"/fixed/orders"}) {
		t.Errorf("class eks: got %v", issued(matches))
	}
}

func TestPoint2ClassesMayBeLeftOutOnlyBehindANodeAttribute(t *testing.T) {
	for id, ok := range map[string]bool{
		"/{node.class}/{workload.unix.user}":    true,
		"/svc/{node.name}/{workload.unix.user}": true,
		"/vm-{node.name}/{workload.unix.user}":  true,
		"/{workload.unix.user}/{node.class}":    false,
		"/svc/{workload.unix.user}":             false,
		"/{node.class}{workload.unix.user}":     false,
		"/{workload.unix.user}-{node.class}/a":  false,
		"/fixed":                                false,
	} {
		_, _, err := compileOne(t, IdentityRule{ID: id, Require: `workload.unix.user == "a"`})
		if (err == nil) != ok {
			t.Errorf("%s without nodes: got %v, want allowed: %v", id, err, ok)
		}
		if _, _, err := compileOne(t, IdentityRule{ID: id, Require: `workload.unix.user == "a"`, Nodes: []string{"vms"}}); err != nil {
			t.Errorf("%s with nodes: %v", id, err)
		}
	}
}

func TestPoint2ReachCountsTheNodesOfEachID(t *testing.T) {
	ids := mustCompile(t,
		IdentityRule{Name: "as", ID: "/{node.class}/{workload.kith.as}"},
		IdentityRule{Name: "host", Nodes: []string{"vms"}, ID: "/host/{node.name}", Require: "workload.unix.uid == 0"},
		IdentityRule{Name: "both", Nodes: []string{"vms", "eks"}, ID: "/db", Require: `workload.unix.user == "db"`},
	)
	perClass := map[string]int{"eks": 40, "vms": 3}
	got := map[string]int{}
	for _, r := range ids.Reach() {
		got[r.Pattern] = r.Nodes(perClass)
	}
	want := map[string]int{"/eks/{workload.kith.as}": 40, "/vms/{workload.kith.as}": 3, "/host/{node.name}": 1, "/db": 43}
	for pattern, n := range want {
		if got[pattern] != n {
			t.Errorf("%s: %d nodes, want %d", pattern, got[pattern], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
}

// Whatever way a requirement spells an attribute, it names it.
func TestPoint1EverySpellingNamesTheAttribute(t *testing.T) {
	d, err := standardDialect()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{
		`.node.name == "x"`:                                             {"node.name"},
		`true || node.name == "x"`:                                      {"node.name"},
		`[node.name].exists(n, n == workload.unix.user)`:                {"node.name", "workload.unix.user"},
		`workload.unix.groups.all(g, g != node.class)`:                  {"node.class", "workload.unix.groups"},
		`(present(node.name) ? node.class : "x") == "x"`:                {"node.class"},
		`size(workload.unix.groups) > 1 && "a" in workload.unix.groups`: {"workload.unix.groups"},
	} {
		r, err := d.compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if !slices.Equal(r.attributes, want) {
			t.Errorf("%s names %v, want %v", text, r.attributes, want)
		}
	}
}
