package adopt_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// Attack 30: what is empty, misspelt or of another form is never read as absent,
// which would be everybody or everything; it is refused with its line.
func TestAttack30SlipsAreNotEverybody(t *testing.T) {
	istio := func(rules string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n  rules: " + rules
	}
	server := "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, port: 8080}\n---\n"
	linkerd := func(refs string) string {
		return server + "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  targetRef: {kind: Server, name: s}\n  requiredAuthenticationRefs: " + refs
	}
	network := func(ingress string) string {
		return "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, ingress: " + ingress + "}"
	}
	consul := func(sources string) string {
		return "kind: ServiceIntentions\nmetadata: {name: x}\nspec: {destination: {name: orders}, sources: " + sources + "}"
	}
	for name, c := range map[string]struct{ system, text, why string }{
		"fields beside source":       {"istio", istio("[{from: [{principals: ['cluster.local/ns/shop/sa/web']}]}]"), "from[0].principals is not read"},
		"fields beside operation":    {"istio", istio("[{to: [{paths: [/v1]}]}]"), "to[0].paths is not read"},
		"nothing in from":            {"istio", istio("[{from: [{}]}]"), "from[0] has no source"},
		"no source":                  {"istio", istio("[{from: [{source: null}]}]"), "from[0] has no source"},
		"empty from":                 {"istio", istio("[{from: []}]"), "from is no list"},
		"from of one":                {"istio", istio("[{from: {source: {principals: ['*']}}}]"), "from is no list"},
		"empty to":                   {"istio", istio("[{to: []}]"), "to is no list"},
		"empty when":                 {"istio", istio("[{when: {key: source.ip, values: [10.0.0.1]}}]"), "when is no list"},
		"empty list of paths":        {"istio", istio("[{to: [{operation: {paths: []}}]}]"), "paths is no list"},
		"one method, no list":        {"istio", istio("[{to: [{operation: {methods: GET}}]}]"), "methods is no list"},
		"an empty host":              {"istio", istio("[{to: [{operation: {hosts: ['']}}]}]"), "hosts is no list"},
		"empty list of blocks":       {"istio", istio("[{from: [{source: {ipBlocks: []}}]}]"), "ipBlocks is no list"},
		"rules of one":               {"istio", istio("{from: [{source: {principals: ['*']}}]}"), "rules is no list"},
		"labels of another form":     {"istio", strings.Replace(istio("[{}]"), "{app: orders}", "[app, orders]", 1), "labels are no mapping"},
		"dry run in another case":    {"istio", strings.Replace(istio("[{}]"), "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: 'True'}", 1), "say true or false"},
		"any account of a namespace": {"istio", istio("[{from: [{source: {serviceAccounts: [shop/*]}}]}]"), "is not namespace/name"},
		"hosts by their end":         {"istio", istio("[{to: [{operation: {hosts: ['*.example', '*.example:*']}}]}]"), "that name no port"},
		"the host as a header":       {"istio", istio("[{when: [{key: 'request.headers[:authority]', values: [a]}]}]"), "say hosts"},
		"two identities":             {"linkerd", linkerd("[{kind: ServiceAccount, name: web}, {kind: ServiceAccount, name: batch}]"), "two authentications by identity"},
		"refs of one":                {"linkerd", linkerd("{kind: ServiceAccount, name: web}"), "requiredAuthenticationRefs is no list"},
		"no refs":                    {"linkerd", linkerd("null"), "requiredAuthenticationRefs is no list"},
		"no selector":                {"linkerd", strings.Replace(server, "podSelector: {matchLabels: {app: orders}}, ", "", 1), "podSelector: there is none"},
		"another network field":      {"linkerd", linkerd("[{kind: NetworkAuthentication, name: n}]") + "\n---\napiVersion: policy.linkerd.io/v1alpha1\nkind: NetworkAuthentication\nmetadata: {name: n, namespace: shop}\nspec: {networks: [{cidr: 10.0.0.0/8, excepts: [10.1.0.0/16]}]}", "excepts of a network"},
		"empty peer":                 {"networkpolicy", network("[{from: [{}]}]"), "either an ipBlock or selectors"},
		"block and pods":             {"networkpolicy", network("[{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]"), "either an ipBlock or selectors"},
		"from of one peer":           {"networkpolicy", network("[{from: {podSelector: {}}}]"), "from is no list"},
		"port 0":                     {"networkpolicy", network("[{ports: [{port: 0}]}]"), "say its number"},
		"misspelt port":              {"networkpolicy", network("[{ports: [{ports: 80}]}]"), "ports: ports is not read"},
		"labels nobody told of":      {"networkpolicy", network("[{from: [{namespaceSelector: {matchLabels: {team: sales}}}]}]"), "whether namespace data has the label team"},
		"rules beside ingress":       {"networkpolicy", strings.Replace(network("[]"), "ingress", "ingres", 1), "ingres beside it is not read"},
		"twice":                      {"consul", consul("[{name: web, action: allow}, {name: web, action: deny}]"), "a second time"},
		"action and permissions":     {"consul", consul("[{name: web, action: deny, permissions: [{action: allow, http: {pathPrefix: /}}]}]"), "no action beside it"},
		"no methods":                 {"consul", consul("[{name: web, permissions: [{action: deny, http: {methods: []}}]}]"), "http.methods is no list"},
		"pseudo header":              {"consul", consul("[{name: web, permissions: [{action: deny, http: {header: [{name: ':path', prefix: /admin}]}}]}]"), `header ":path"`},
		"header without a value":     {"consul", consul("[{name: web, permissions: [{action: deny, http: {header: [{name: tier}]}}]}]"), "says nothing of its value"},
	} {
		t.Run(name, func(t *testing.T) {
			result := read(t, c.system, c.text)
			if len(result.Refused) == 0 || !strings.Contains(result.Refused[0].Text, c.why) || !strings.HasPrefix(result.Refused[0].At, "x.yaml:") {
				t.Errorf("got %+v, want a refusal with its line that says %q", result.Refused, c.why)
			}
			for _, r := range result.Rules {
				if r.To == "orders" {
					t.Errorf("a rule for a service with a refused part: %+v", r)
				}
			}
		})
	}
}

// Attacks 23 and 24: a namespace is not a segment that happens to stand in its
// place, and who is denied or excepted by trust domain is denied or excepted by it.
func TestAttack23And24NamespacesAndTrustDomainsAreWhole(t *testing.T) {
	doc := func(name, action, rules string) string {
		return "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: " + name + ", namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n  action: " + action + "\n  rules: " + rules + "\n"
	}
	const pod, vm, other, data = "spiffe://acme.example/eks/shop/web", "spiffe://acme.example/vms/shop/web", "spiffe://other.example/ns/shop/sa/web", "spiffe://other.example/ns/data/sa/x"
	both := doc("all", "ALLOW", "[{from: [{source: {trustDomains: [cluster.local, other.example]}}]}]")
	for name, c := range map[string]struct {
		text string
		in   []string // of the four, who is let in
	}{
		"namespace under when":         {doc("p", "ALLOW", "[{when: [{key: source.namespace, values: [shop]}]}]"), []string{pod}},
		"two trust domains":            {both, []string{pod, vm, other, data}},
		"principals of both":           {doc("p", "ALLOW", "[{from: [{source: {principals: ['cluster.local/*', 'other.example/*']}}]}]"), []string{pod, vm, other, data}},
		"not of ours":                  {both + doc("p", "DENY", "[{from: [{source: {notTrustDomains: [cluster.local]}}]}]"), []string{pod, vm}},
		"not of ours, as principals":   {both + doc("p", "DENY", "[{from: [{source: {notPrincipals: ['cluster.local/*']}}]}]"), []string{pod, vm}},
		"of ours":                      {both + doc("p", "DENY", "[{from: [{source: {trustDomains: [cluster.local]}}]}]"), []string{other, data}},
		"a namespace anywhere":         {both + doc("p", "DENY", "[{from: [{source: {namespaces: [shop]}}]}]"), []string{vm, data}},
		"an account anywhere":          {both + doc("p", "DENY", "[{from: [{source: {serviceAccounts: [data/x]}}]}]"), []string{pod, vm, other}},
		"a namespace anywhere, when":   {both + doc("p", "DENY", "[{when: [{key: source.namespace, values: [shop]}]}]"), []string{vm, data}},
		"all but a namespace anywhere": {both + doc("p", "DENY", "[{from: [{source: {notNamespaces: [shop]}}]}]"), []string{pod, other}},
		"everybody with an identity":   {both + doc("p", "DENY", "[{from: [{source: {notPrincipals: ['*']}}]}]"), []string{pod, vm, other, data}},
	} {
		t.Run(name, func(t *testing.T) {
			result := read(t, "istio", c.text)
			if len(result.Refused) > 0 {
				t.Fatalf("refused: %+v", result.Refused)
			}
			table := compiled(t, result, "orders")
			for _, who := range []string{pod, vm, other, data} {
				id, err := spiffe.ParseID(who)
				if err != nil {
					t.Fatal(err)
				}
				got := table.Decide(table.Peer(id), policy.Request{
					Protocol: policy.HTTP, Method: "GET", Path: "/", Port: 8080, Facts: &policy.Facts{Source: netip.MustParseAddr("10.1.2.3")},
				})
				want := strings.Contains(" "+strings.Join(c.in, " ")+" ", " "+who+" ")
				if (got.Effect == policy.Allow) != want {
					t.Errorf("%s: allowed %v, want %v: %+v", who, !want, want, result.Rules)
				}
			}
		})
	}
}
