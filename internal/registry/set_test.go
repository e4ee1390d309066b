package registry

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func TestStartingSetIsValidAndWorks(t *testing.T) {
	nodes, ids, warnings, err := StartingSet(domain(t)).Compile()
	if err != nil {
		t.Fatal(err)
	}
	class, _, err := nodes.AdmitEvidence(Evidence{Attestor: "join_token", Name: "vm-7", Class: "vms"})
	if err != nil || class != "vms" {
		t.Fatalf("got class %q, %v", class, err)
	}
	matches, _ := ids.Evaluate(class, workload("workload.kith.as", "web"))
	if diff := cmp.Diff([]string{"/vms/web", "/vms/orders"}, issued(matches)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !hasWarning(warnings, "as", Collides) {
		t.Errorf("a unit and a claim of one name give one ID, and plan does not tell: %v", warnings)
	}
}

func TestSetReportsEveryFaultWithItsPath(t *testing.T) {
	set := Set{
		TrustDomain: domain(t),
		NodeRules: map[string]NodeRule{
			"vms":   {Name: "vms", Require: `node.attestor == "join_token"`},
			"other": {Name: "another", Require: `node.name == "a"`},
			"bad":   {Name: "bad", Require: `node.nam == "a"`},
		},
		IdentityRules: map[string]IdentityRule{
			"pods":  {Name: "pods", Nodes: []string{"vmz"}, ID: "/{node.class}/{workload.unix.user}"},
			"ttl":   {Name: "ttl", ID: "/{node.class}/{workload.unix.user}", TTL: time.Second, Hint: strings.Repeat("h", 300)},
			"slash": {Name: "slash", ID: "/{node.class}//{workload.unix.user}"},
			"list":  {Name: "list", ID: "/{node.class}/{workload.unix.groups}"},
			"kith":  {Name: "kith", ID: "/kith/{node.name}"},
			"twice": {Name: "twice", Nodes: []string{"vms", "vms", "a/b"}, ID: "/a/{workload.unix.user}"},
			"typo":  {Name: "typo", ID: "/{node.class}/{workload.systemd.unti|trim(.service)}"},
			"inner": {Name: "outer", ID: "/{node.class}/{workload.unix.user}"},
		},
	}
	_, err := set.Validate()
	if !fault.Is(err, fault.Invalid) {
		t.Fatalf("got %v, want an invalid error", err)
	}
	for _, want := range []string{
		`nodes.other: is named "another" inside`,
		"nodes.bad.require: unknown attribute node.nam; did you mean node.name?",
		`identities.pods.nodes: no node rule "vmz"; did you mean vms?`,
		"identities.ttl.ttl: ", "identities.ttl.hint: ",
		"identities.slash.id: template /{node.class}//{workload.unix.user}: empty segment",
		"identities.list.id: ", "identities.kith.id: ",
		"identities.twice.nodes: class vms is listed twice", `identities.twice.nodes: name "a/b"`,
		"identities.typo.id: template /{node.class}/{workload.systemd.unti|trim(.service)}: unknown attribute workload.systemd.unti; did you mean workload.systemd.unit?",
		`identities.inner: is named "outer" inside`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no fault %q in:\n%v", want, err)
		}
	}
	if hint := fault.HintOf(err); hint == "" {
		t.Error("no hint")
	}
}

func TestBadTemplatesAreRefused(t *testing.T) {
	for id, want := range map[string]string{
		"":                  "empty template",
		"{node.class}":      "does not start with /",
		"/":                 "empty segment",
		"/{node.class}/":    "empty segment",
		"/a//b":             "empty segment",
		"/{node.class}/..":  `segment ".."`,
		"/./{node.class}":   `segment "."`,
		"/{node.class}/a b": "character ' '",
		"/{node.class}/%2e": "character '%'",
		"/{node.class}/a}":  "character '}'",
		"/{node.class":      "not closed",
		"/{node.class}/{}":  "unknown attribute",
		"/{node.class}/{workload.unix.user|upper}":                              `unknown filter "upper"`,
		"/{node.class}/{workload.unix.user|sluq}":                               "did you mean slug?",
		"/{node.class}/{workload.unix.user|slug(a)}":                            "takes no argument",
		"/{node.class}/{workload.unix.user|trim}":                               "want trim(suffix)",
		"/{node.class}/{workload.unix.user|trim()}":                             "want trim(suffix)",
		"/{node.class}/{workload.unix.user|trim(a}":                             "want trim(suffix)",
		"/{node.class}/{workload.unix.user|}":                                   "unknown filter",
		"/{node.class}/{ workload.unix.user }":                                  "unknown attribute",
		"/{node.class}/{workload.unix.user" + strings.Repeat("|lower", 9) + "}": "9 filters",
		"/{node.class}" + strings.Repeat("/{node.class}", 16):                   "names 17 attributes",
		"/" + strings.Repeat("a", maxTemplate):                                  "at most",
	} {
		_, _, err := compileOne(t, IdentityRule{ID: id})
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "identities.r.id") {
			t.Errorf("%.60s: got %v, want an invalid error with %q", id, err, want)
		}
	}
}

func TestCostIsLimited(t *testing.T) {
	ids := mustCompile(t, IdentityRule{
		Name: "r", ID: "/{node.class}/{workload.unix.user}",
		Require: `workload.unix.groups.all(a, workload.unix.groups.all(b, a.contains("g") || b.contains("g")))`,
	})
	var groups []string
	for i := range maxListElements / 2 {
		groups = append(groups, "g"+Int(int64(i)))
	}
	matches, outcomes := ids.Evaluate("vms", workload("workload.unix.groups", List(groups...)))
	if len(matches) != 0 || outcomes[0].Result != Failed || !strings.Contains(outcomes[0].Detail, "cost") {
		t.Errorf("got %v, %v; want the cost limit", issued(matches), outcomes)
	}
	if matches, outcomes := ids.Evaluate("vms", workload("workload.unix.groups", "g1,g2")); len(matches) != 1 {
		t.Errorf("a short list: %v", outcomes)
	}
}

func TestRequirementsAreSharedWithinASet(t *testing.T) {
	ids := mustCompile(t,
		IdentityRule{Name: "a", ID: "/{node.class}/a/{workload.unix.user}", Require: "workload.unix.uid != 0"},
		IdentityRule{Name: "b", ID: "/{node.class}/b/{workload.unix.user}", Require: "workload.unix.uid != 0"},
	)
	if ids.rules[0].require != ids.rules[1].require {
		t.Error("two rules with one requirement hold two programs")
	}
}

func TestRulesRoundTripOverTheWire(t *testing.T) {
	identity := IdentityRule{
		Name: "a", Nodes: []string{"vms"}, ID: "/a", Require: "true", Default: true, Hint: "h", TTL: time.Hour, Owner: "cli",
	}
	got, err := IdentityRuleFromPB(identity.PB())
	if err != nil || cmp.Diff(identity, got) != "" {
		t.Errorf("identity rule came back as %+v, %v", got, err)
	}
	node := NodeRule{Name: "vms", Require: "true", Owner: "cli"}
	if got := NodeRuleFromPB(node.PB()); got != node {
		t.Errorf("node rule came back as %+v", got)
	}
	if p := (IdentityRule{Name: "a"}).PB(); p.Ttl != nil {
		t.Errorf("no TTL is sent as %v", p.Ttl)
	}
	if _, err := IdentityRuleFromPB(&pb.IdentityRule{Name: "a", Ttl: &durationpb.Duration{Seconds: 1, Nanos: -1}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("a broken duration: got %v", err)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	ids := mustCompile(b,
		IdentityRule{Name: "as", ID: "/{node.class}/{workload.kith.as}"},
		IdentityRule{Name: "unit", ID: "/{node.class}/{workload.systemd.unit|trim(.service)}", Require: "workload.unix.uid != 0"},
	)
	attrs := workload()
	b.ReportAllocs()
	for b.Loop() {
		ids.Evaluate("vms", attrs)
	}
}

func BenchmarkCompile(b *testing.B) {
	rule := IdentityRule{Name: "unit", ID: "/{node.class}/{workload.systemd.unit|trim(.service)}", Require: `workload.unix.uid != 0 && node.name.startsWith("a")`}
	for b.Loop() {
		mustCompile(b, rule)
	}
}
