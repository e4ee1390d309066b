package adopt_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// What the random documents do not have: what it becomes lets in the one of two
// requests that the other system lets in.
func TestExamplesOfWhatIsNotDrawn(t *testing.T) {
	istio := func(rules string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n  rules: [" + rules + "]"
	}
	consul := func(http string) string {
		return "kind: ServiceIntentions\nmetadata: {name: x}\nspec: {destination: {name: orders}, sources: [{name: web, permissions: [{action: allow, http: {" + http + "}}]}]}"
	}
	tier := func(values ...string) policy.Request {
		return policy.Request{Facts: &policy.Facts{Headers: http.Header{"Tier": values}}}
	}
	sni := func(name string) policy.Request { return policy.Request{Facts: &policy.Facts{SNI: name}} }
	for name, c := range map[string]struct {
		system, text string
		in, out      []policy.Request
	}{
		"host": {
			"istio", istio("{to: [{operation: {hosts: [a.example, 'a.example:*']}}]}"),
			[]policy.Request{{Host: "a.example"}},
			[]policy.Request{{Host: "b.example"}, {Host: "a.example.b"}, {}},
		},
		"host by its beginning": {
			"istio", istio("{to: [{operation: {hosts: ['a.*']}}]}"),
			[]policy.Request{{Host: "a.example"}},
			[]policy.Request{{Host: "b.a.example"}, {Host: "a"}},
		},
		"not a host": {
			"istio", istio("{to: [{operation: {notHosts: [a.example, 'a.example:*']}}]}"),
			[]policy.Request{{Host: "b.example"}},
			[]policy.Request{{Host: "a.example"}},
		},
		"SNI": {
			"istio", istio("{when: [{key: connection.sni, values: [a.example, '*.b.example']}]}"),
			[]policy.Request{sni("a.example"), sni("c.b.example")},
			[]policy.Request{sni("b.example"), sni(""), {}},
		},
		"path by expression": {
			"consul", consul("pathRegex: '/v[0-9]|/w'"),
			[]policy.Request{{Path: "/v1"}, {Path: "/w"}},
			[]policy.Request{{Path: "/v12"}, {Path: "/a/v1"}, {Path: "/w/x"}},
		},
		"header there":         {"consul", consul("header: [{name: tier, present: true}]"), []policy.Request{tier("gold")}, []policy.Request{tier()}},
		"header by beginning":  {"consul", consul("header: [{name: tier, prefix: go}]"), []policy.Request{tier("gold")}, []policy.Request{tier("ago"), tier()}},
		"header by end":        {"consul", consul("header: [{name: tier, suffix: ld}]"), []policy.Request{tier("gold")}, []policy.Request{tier("golden"), tier()}},
		"header by what is in": {"consul", consul("header: [{name: tier, contains: ol}]"), []policy.Request{tier("gold")}, []policy.Request{tier("silver"), tier()}},
		"header by expression": {"consul", consul("header: [{name: tier, regex: 'g|gold'}]"), []policy.Request{tier("gold")}, []policy.Request{tier("golden"), tier("marigold"), tier()}},
		"two headers":          {"consul", consul("header: [{name: tier, prefix: g}, {name: tier, suffix: d}]"), []policy.Request{tier("gold")}, []policy.Request{tier("green"), tier("red"), tier()}},
	} {
		t.Run(name, func(t *testing.T) {
			result := read(t, c.system, c.text)
			if len(result.Refused) > 0 {
				t.Fatalf("refused: %+v", result.Refused)
			}
			lets(t, result, c.in, c.out)
		})
	}
}

// lets checks which requests of one caller the rules for orders let in.
func lets(t *testing.T, result adopt.Result, in, out []policy.Request) {
	t.Helper()
	table := compiled(t, result, "orders")
	id, err := spiffe.ParseID("spiffe://acme.example/eks/shop/web")
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range slices.Concat(in, out) {
		r.Protocol, r.Method, r.Port = policy.HTTP, "GET", 8080
		if r.Path == "" {
			r.Path = "/"
		}
		if got := table.Decide(table.Peer(id), r); (got.Effect == policy.Allow) != (i < len(in)) {
			t.Errorf("%+v: allowed %v by %+v", r, got.Effect == policy.Allow, result.Rules)
		}
	}
}

// A dry run decides nothing: its rules are in shadow mode, and an ALLOW that only
// runs dry is no reason to deny everybody else.
func TestDryRunsBecomeShadows(t *testing.T) {
	for _, action := range []string{"ALLOW", "DENY"} {
		result := read(t, "istio", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop, annotations: {istio.io/dry-run: 'true'}}\n"+
			"spec: {selector: {matchLabels: {app: orders}}, action: "+action+", rules: [{to: [{operation: {methods: [GET]}}]}]}")
		table := compiled(t, result, "orders")
		id, err := spiffe.ParseID("spiffe://acme.example/eks/shop/web")
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range []string{"GET", "POST"} {
			if got := decide(table, id, istioRequest{method: method, path: "/", port: "8080", ip: "10.1.2.3"}); got.Effect != policy.Allow {
				t.Errorf("%s, %s: got %+v, want it allowed by %+v", action, method, got, result.Rules)
			}
		}
		if !slices.ContainsFunc(result.Rules, func(r policy.Rule) bool { return r.Mode == policy.Shadow }) {
			t.Errorf("%s: got %+v, want one in shadow mode", action, result.Rules)
		}
	}
}
