package registry

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kith-id/kith/internal/fault"
)

func mustNodes(t *testing.T, rules ...NodeRule) *Nodes {
	t.Helper()
	n, err := CompileNodes(rules)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestNodeRulesAdmitByAttributes(t *testing.T) {
	nodes := mustNodes(t,
		NodeRule{Name: "db", Require: `node.name.startsWith("db-")`},
		NodeRule{Name: "vms", Require: `node.attestor == "join_token" && node.name.startsWith("vm-")`},
		NodeRule{Name: "every", Require: `node.name == "db-and-every" || node.name == "never"`},
	)
	for name, want := range map[string]string{"db-1": "db", "vm-1": "vms", "x-1": "", "db-and-every": ""} {
		class, outcomes := nodes.Admit(Attributes{"node.name": name, "node.attestor": "join_token"})
		if class != want || len(outcomes) != 3 {
			t.Errorf("%s: got class %q and %v, want %q", name, class, outcomes, want)
		}
	}
	_, outcomes := nodes.Admit(Attributes{"node.name": "vm-1"})
	if o := outcomes[2]; o.Result != Missing || o.Detail != "no node.attestor" {
		t.Errorf("without an attestor: %v", o)
	}
	if got := nodes.Classes(); !slices.Equal(got, []string{"db", "every", "vms"}) {
		t.Errorf("classes are %v", got)
	}
}

func TestTokenClassNeedsItsNodeRuleToo(t *testing.T) {
	nodes := mustNodes(t,
		NodeRule{Name: "vms", Require: `node.attestor == "join_token"`},
		NodeRule{Name: "web", Require: `node.attestor == "join_token" && node.name.startsWith("web-")`},
	)
	evidence := func(name, class string) Evidence {
		return Evidence{Attestor: "join_token", Name: name, Class: class, KeyHash: HashOf([]byte("k"))}
	}
	if class, _, err := nodes.AdmitEvidence(evidence("web-1", "web")); err != nil || class != "web" {
		t.Errorf("web-1 for web: %q, %v", class, err)
	}
	if class, _, err := nodes.AdmitEvidence(evidence("web-1", "vms")); err != nil || class != "vms" {
		t.Errorf("web-1 for vms, though web matches too: %q, %v", class, err)
	}
	for name, e := range map[string]Evidence{
		"rule says no":    evidence("vm-1", "web"),
		"no such rule":    evidence("web-1", "wbe"),
		"two rules match": evidence("web-1", ""),
		"bad name":        evidence("we/b", "vms"),
		"reserved name":   evidence("kith", "vms"),
		"other attestor":  {Attestor: "node_key", Name: "vm-1", Class: "vms"},
		"forged attestor": {Attestor: "x", Name: "vm-1", Class: "vms", Attributes: Attributes{"node.attestor": "join_token"}},
		"bad attributes":  {Attestor: "join_token", Name: "vm-1", Class: "vms", Attributes: Attributes{"node.X": "a"}},
	} {
		class, _, err := nodes.AdmitEvidence(e)
		if class != "" || !fault.Is(err, fault.Denied) {
			t.Errorf("%s: got class %q, %v; want a denial", name, class, err)
		}
	}
	_, _, err := nodes.AdmitEvidence(evidence("web-1", "wbe"))
	if !strings.Contains(err.Error(), "did you mean web?") {
		t.Errorf("unknown class: %v", err)
	}
	_, _, err = mustNodes(t).AdmitEvidence(evidence("a", ""))
	if !fault.Is(err, fault.Denied) {
		t.Errorf("no rules at all: %v", err)
	}
}

func TestBadNodeRulesAreRefusedTogether(t *testing.T) {
	_, err := CompileNodes([]NodeRule{
		{Name: "kith", Require: `node.name == "a"`},
		{Name: "empty"},
		{Name: "class", Require: `node.class == "a"`},
		{Name: "workload", Require: `workload.unix.uid == 0`},
		{Name: "typo", Require: `node.attestr == "join_token"`},
		{Name: "constant", Require: `true`},
		{Name: "twice", Require: `node.name == "a"`},
		{Name: "twice", Require: `node.name == "a"`},
		{Name: "a b", Require: `node.name == "a"`},
		{Name: "owner", Require: `node.name == "a"`, Owner: "a\nb"},
	})
	if !fault.Is(err, fault.Invalid) {
		t.Fatalf("got %v, want an invalid error", err)
	}
	for _, want := range []string{
		"nodes.kith: ", "nodes.empty.require: ", "nodes.class.require: ", "nodes.workload.require: ",
		"nodes.typo.require: unknown attribute node.attestr; did you mean node.attestor?",
		"nodes.constant.require: ", "nodes.twice: ", "nodes.a b: ", "nodes.owner.owner: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no fault %q in:\n%v", want, err)
		}
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	node := Node{
		Name: "vm-7", Class: "vms", Attestor: "join_token", KeyHash: HashOf([]byte("key")), Attributes: Attributes{"node.name": "vm-7"},
		Joined: now, LastAttested: now, Expires: now.Add(time.Hour), Banned: true,
	}
	value, err := node.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseNode(value); err != nil || cmp.Diff(node, got) != "" {
		t.Errorf("node came back as %+v, %v", got, err)
	}
	token := JoinToken{Hash: HashOf([]byte("token")), Node: "vm-7", Class: "vms", Created: now, Expires: now.Add(MaxTokenTTL)}
	value, err = token.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseJoinToken(value)
	if err != nil || cmp.Diff(token, got) != "" {
		t.Errorf("token came back as %+v, %v", got, err)
	}
	if got.Expired(now) || !got.Expired(now.Add(MaxTokenTTL)) || !(JoinToken{}).Expired(now) {
		t.Error("a token is over at its expiry, not before, and the zero token always")
	}
	if got.Key() != "token/"+HashOf([]byte("token")).String() {
		t.Errorf("key is %s", got.Key())
	}
	for name, bad := range map[string]string{
		"unknown field": strings.Replace(string(value), "{", `{"x":1,`, 1),
		"no JSON":       "x",
		"short hash":    `{"hash":"ab","node":"a","class":"b"}`,
		"no lifetime":   strings.Replace(string(value), `"expires":"2026-11-01T12:10`, `"expires":"2026-11-01T12:11`, 1),
	} {
		if _, err := ParseJoinToken([]byte(bad)); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want an invalid error", name, err)
		}
	}
	if _, err := (Node{Name: "vm-7", Class: "vms"}).Marshal(); !fault.Is(err, fault.Invalid) {
		t.Errorf("a node without a key: got %v", err)
	}
}

func TestObjectKeys(t *testing.T) {
	for _, kind := range Kinds() {
		k, name, ok := ParseObjectKey(ObjectKey(kind, "a-b"))
		if !ok || k != kind || name != "a-b" {
			t.Errorf("%s came back as %s/%s, %v", kind, k, name, ok)
		}
	}
	for _, key := range []string{"object/", "object/rule", "object/rule/", "object/other/a", "node/a", ""} {
		if _, _, ok := ParseObjectKey(key); ok {
			t.Errorf("%q is accepted as an object's key", key)
		}
	}
}
