package registry

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

func TestPoint3AndThreatT14ValuesAreConfined(t *testing.T) {
	for _, test := range []struct{ id, value, want string }{
		{"{workload.unix.user}", "orders", "orders"},
		{"{workload.unix.user}", "a.b_c-D9", "a.b_c-D9"},
		{"{workload.unix.user}", "a/b", ""},
		{"{workload.unix.user}", "a%2fb", ""},
		{"{workload.unix.user}", "a b", ""},
		{"{workload.unix.user}", "ä", ""},
		{"{workload.unix.user}", ".", ""},
		{"{workload.unix.user}", "..", ""},
		{"{workload.unix.user}", "...", "..."},
		{"{workload.unix.user}.", ".", ""},
		{"x{workload.unix.user}", "..", "x.."},
		{"{workload.unix.user|slug}", "team/orders v2!", "team-orders-v2"},
		{"{workload.unix.user|slug}", "///", ""},
		{"{workload.unix.user|slug}", "../../etc", "..-..-etc"},
		{"{workload.unix.user|slug}", "..", ""},
		{"{workload.unix.user|lower}", "Orders", "orders"},
		{"{workload.unix.user|hash}", "a/b", "c14cddc033f64b9dea80ea675cf280a0"},
		{"{workload.unix.user|trim(.service)}", "orders.service", "orders"},
		{"{workload.unix.user|trim(.service)}", "orders.timer", "orders.timer"},
		{"{workload.unix.user|trim(.service)}", ".service", ""},
		{"{workload.unix.user|trim(/x)}", "a/x", "a"},
		{"{workload.unix.user|slug|lower|trim(-v2)}", "A/B V2", "a-b"},
		{"{workload.unix.uid}", "", "1000"},
	} {
		ids := mustCompile(t, IdentityRule{Name: "r", ID: "/{node.class}/" + test.id})
		attrs := workload()
		if test.value != "" {
			attrs["workload.unix.user"] = test.value
		}
		matches, outcomes := ids.Evaluate("vms", attrs)
		if test.want == "" {
			if len(matches) != 0 || outcomes[0].Result != Unmatched || outcomes[0].Detail == "" {
				t.Errorf("%s of %q: got %v, %v; want no match with a reason", test.id, test.value, issued(matches), outcomes)
			}
			continue
		}
		if !slices.Equal(issued(matches), []string{"/vms/" + test.want}) {
			t.Errorf("%s of %q: got %v, %v; want %s", test.id, test.value, issued(matches), outcomes, test.want)
		}
	}
}

func TestPoint3WholeIDIsBounded(t *testing.T) {
	ids := mustCompile(t, IdentityRule{Name: "r", ID: "/{node.class}/{workload.unix.user}"})
	matches, outcomes := ids.Evaluate("vms", workload("workload.unix.user", strings.Repeat("a", 2100)))
	if len(matches) != 0 || outcomes[0].Result != Failed || outcomes[0].Detail == "" {
		t.Errorf("an ID of over 2048 bytes: got %d matches, %v", len(matches), outcomes)
	}
}

func TestReservedPathsCannotBeReached(t *testing.T) {
	for id, refused := range map[string]bool{
		"/kith":               true,
		"/kith/server/a":      true,
		"/kith/{node.name}":   true,
		"/k{node.name}/a":     true,
		"/kit{node.name}":     true,
		"/kith-{node.name}/a": false,
		"/kith{node.name}/a":  false, // the value is never empty
		"/x{node.name}":       false,
		"/a/kith/{node.name}": false,
		"/{node.name}/a":      false,
	} {
		_, _, err := compileOne(t, IdentityRule{ID: id, Nodes: []string{"vms"}, Require: `workload.unix.user == "a"`})
		if (err != nil) != refused {
			t.Errorf("%s: got %v, want refused: %v", id, err, refused)
		}
	}
	ids := mustCompile(t,
		IdentityRule{Name: "a", Nodes: []string{"vms"}, ID: "/{workload.unix.user}/node/x"},
		IdentityRule{Name: "b", Nodes: []string{"vms"}, ID: "/{workload.unix.user|lower|trim(-x)}/b"},
	)
	for _, user := range []string{"kith", "KITH-x"} {
		matches, outcomes := ids.Evaluate("vms", workload("workload.unix.user", user))
		for _, m := range matches {
			if strings.HasPrefix(m.ID.Path(), "/kith/") {
				t.Errorf("user %q: reached %s", user, m.ID)
			}
		}
		if !slices.ContainsFunc(outcomes, func(o Outcome) bool { return o.Result == Failed && strings.Contains(o.Detail, "reserved") }) {
			t.Errorf("user %q: no outcome tells why: %v", user, outcomes)
		}
	}
	if err := ValidateName("kith"); err == nil {
		t.Error("kith is accepted as a name of a class")
	}
}

func TestPoint4AllMatchingRulesIssueDefaultFirst(t *testing.T) {
	ids := mustCompile(t,
		IdentityRule{Name: "a", ID: "/{node.class}/a/{workload.unix.user}", Hint: "internal", TTL: time.Hour},
		IdentityRule{Name: "b", ID: "/{node.class}/b/{workload.unix.user}", Require: "workload.unix.uid == 0"},
		IdentityRule{Name: "c", ID: "/{node.class}/c/{workload.unix.user}", Default: true},
		IdentityRule{Name: "d", ID: "/{node.class}/a/{workload.unix.user}"},
	)
	matches, outcomes := ids.Evaluate("vms", workload())
	if want := []string{"/vms/c/orders", "/vms/a/orders"}; !slices.Equal(issued(matches), want) {
		t.Errorf("got %v, want %v", issued(matches), want)
	}
	if matches[1].Rule != "a" || matches[1].Hint != "internal" || matches[1].TTL != time.Hour {
		t.Errorf("match does not carry its rule: %+v", matches[1])
	}
	if len(outcomes) != 4 {
		t.Errorf("%d outcomes for 4 rules", len(outcomes))
	}
}

func TestPoint4DefaultTiesAreRefused(t *testing.T) {
	a := IdentityRule{Name: "a", ID: "/{node.class}/a/{workload.unix.user}", Default: true}
	b := IdentityRule{Name: "b", ID: "/{node.class}/b/{workload.unix.user}", Default: true}
	for _, test := range []struct {
		a, b []string
		tie  bool
	}{
		{nil, nil, true},
		{[]string{"vms"}, nil, true},
		{[]string{"vms"}, []string{"eks", "vms"}, true},
		{[]string{"vms"}, []string{"eks"}, false},
	} {
		a.Nodes, b.Nodes = test.a, test.b
		_, _, err := CompileIdentities(domain(t), []IdentityRule{a, b}, []string{"eks", "vms"})
		if (err != nil) != test.tie || test.tie && !strings.Contains(err.Error(), "identities.b.default") {
			t.Errorf("%v and %v: got %v, want a tie: %v", test.a, test.b, err, test.tie)
		}
	}
}

func TestPoint5EveryRuleIsExplained(t *testing.T) {
	ids := mustCompile(t,
		IdentityRule{Name: "class", Nodes: []string{"eks"}, ID: "/x/{workload.unix.user}"},
		IdentityRule{Name: "false", ID: "/{node.class}/f", Require: "workload.unix.uid == 0"},
		IdentityRule{Name: "missing", ID: "/{node.class}/{workload.kith.as}"},
		IdentityRule{Name: "true", ID: "/{node.class}/{workload.unix.user}"},
		IdentityRule{Name: "unsafe", ID: "/{node.class}/{workload.unix.user}/{workload.unix.path}"},
	)
	_, outcomes := ids.Evaluate("vms", workload())
	want := map[string]string{
		"class":   "class: no_match (not for nodes of class vms)",
		"false":   "false: no_match (false: workload.unix.uid == 0)",
		"missing": "missing: missing (no workload.kith.as)",
		"true":    "true: match spiffe://acme.example/vms/orders",
		"unsafe":  "unsafe: no_match (workload.unix.path holds '/', which an ID cannot; filter it with slug or hash)",
	}
	for _, o := range outcomes {
		if o.String() != want[o.Rule] {
			t.Errorf("got  %s\nwant %s", o, want[o.Rule])
		}
		if len(o.Attributes) == 0 {
			t.Errorf("%s names no attribute", o.Rule)
		}
	}
	for name, want := range map[string]Provenance{
		"node.class": Verified, "workload.unix.uid": Attested, "workload.kith.as": Claimed, "meta.team": Declared,
	} {
		if got := ProvenanceOf(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, d := range Schema() {
		if d.Provenance != ProvenanceOf(d.Name) {
			t.Errorf("%s is %s in the schema and %s by name", d.Name, d.Provenance, ProvenanceOf(d.Name))
		}
	}
}

func TestPoint6PathAndDigestNeverSufficeAlone(t *testing.T) {
	for _, test := range []struct {
		id, require string
		ok          bool
	}{
		{"/{node.class}/app", `workload.unix.path == "/usr/bin/app"`, false},
		{"/{node.class}/app", `workload.unix.sha256 == "ab"`, false},
		{"/{node.class}/app", `workload.unix.path == "/a" && workload.unix.sha256 == "ab"`, false},
		{"/{node.class}/{workload.unix.path|slug}", "", false},
		{"/{node.class}/{workload.unix.pid}", "", false},
		{"/{node.class}/app", `workload.unix.path == "/a" && present(workload.unix.user)`, false},
		{"/{node.class}/app", `workload.unix.path == "/a" && workload.unix.uid == 1000`, true},
		{"/{node.class}/{workload.unix.user}", `workload.unix.sha256 == "ab"`, true},
	} {
		_, warnings, err := compileOne(t, IdentityRule{ID: test.id, Require: test.require})
		if (err == nil) != test.ok || err != nil && (!strings.Contains(err.Error(), "never suffices alone") || fault.HintOf(err) == "") {
			t.Errorf("%s %s: got %v, want allowed: %v", test.id, test.require, err, test.ok)
		}
		if test.ok && !hasWarning(warnings, "r", Local) {
			t.Errorf("%s %s: no warning that an app behind a proxy is not seen: %v", test.id, test.require, warnings)
		}
	}
}

func TestPoint6StaticEntryIsTheSameObject(t *testing.T) {
	ids := mustCompile(t, IdentityRule{Name: "db", Nodes: []string{"vms"}, ID: "/db", Require: `node.name == "vm-7" && workload.unix.user == "orders"`})
	if matches, _ := ids.Evaluate("vms", workload()); !slices.Equal(issued(matches), []string{"/db"}) {
		t.Errorf("got %v, want /db", issued(matches))
	}
}

func hasWarning(warnings []Warning, rule string, kind WarningKind) bool {
	return slices.ContainsFunc(warnings, func(w Warning) bool { return w.Path == "identities."+rule && w.Kind == kind })
}

func TestPoint7PlanTellsCollisionsShadowsAndDeadRules(t *testing.T) {
	user := func(name, id, require string, nodes ...string) IdentityRule {
		return IdentityRule{Name: name, ID: id, Require: require, Nodes: nodes}
	}
	for _, test := range []struct {
		name  string
		rules []IdentityRule
		kind  WarningKind // expected of rule a; "" for no warning at all
	}{
		{"same shape", []IdentityRule{user("a", "/{node.class}/{workload.unix.user}", ""), user("b", "/{node.class}/{workload.kith.as}", "")}, Collides},
		{"fixed and varying", []IdentityRule{user("a", "/vms/db", "workload.unix.uid == 1", "vms"), user("b", "/{node.class}/{workload.kith.as}", "")}, Collides},
		{"other class's prefix", []IdentityRule{user("a", "/vms/{workload.unix.user}", "", "eks"), user("b", "/{node.class}/{workload.kith.as}", "", "vms")}, Collides},
		{"apart by class", []IdentityRule{user("a", "/{node.class}/{workload.unix.user}", "", "eks"), user("b", "/{node.class}/{workload.kith.as}", "", "vms")}, ""},
		{"apart by length", []IdentityRule{user("a", "/{node.class}/{workload.unix.user}", ""), user("b", "/{node.class}/x/{workload.kith.as}", "")}, ""},
		{"apart by prefix", []IdentityRule{user("a", "/{node.class}/u-{workload.unix.user}", ""), user("b", "/{node.class}/as-{workload.kith.as}", "")}, ""},
		{"apart by suffix", []IdentityRule{user("a", "/{node.class}/{workload.unix.user}-u", ""), user("b", "/{node.class}/{workload.kith.as}-as", "")}, ""},
		{"shadowed", []IdentityRule{user("a", "/{node.class}/{workload.unix.user}", "workload.unix.uid > 0"), user("b", "/{node.class}/{workload.unix.user}", "")}, Shadowed},
		{"unknown class", []IdentityRule{user("a", "/x/{workload.unix.user}", "", "emr")}, Nothing},
		{"always false", []IdentityRule{user("a", "/{node.class}/{workload.unix.user}", `"a" == "b"`)}, Nothing},
		{"path unfiltered", []IdentityRule{user("a", "/{node.class}/{workload.unix.path}/{workload.unix.user}", "")}, Nothing},
		{"everybody", []IdentityRule{user("a", "/{node.class}/all", "")}, Broad},
	} {
		_, warnings, err := CompileIdentities(domain(t), test.rules, []string{"eks", "vms"})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if test.kind == "" && len(warnings) > 0 || test.kind != "" && !hasWarning(warnings, "a", test.kind) {
			t.Errorf("%s: got %v, want %q of rule a", test.name, warnings, test.kind)
		}
	}
}
