package adopt_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

func read(t *testing.T, system, text string) adopt.Result {
	t.Helper()
	in := inventory()
	in.Default = "deny"
	in.Namespaces = map[string]map[string]string{"shop": {"team": "sales"}}
	result, err := adopt.Read(system, in, []adopt.File{{Name: "x.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// What has no counterpart is refused with its line and a reason, and nothing is
// made for the services it is about: never silently wider, never narrower.
func TestWhatCannotBeSaidIsRefused(t *testing.T) {
	istio := func(spec string) string {
		return "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  selector: {matchLabels: {app: orders}}\n  " + spec
	}
	for name, c := range map[string]struct{ system, text, why string }{
		"CUSTOM":            {"istio", istio("action: CUSTOM\n  provider: {name: opa}"), "asks somebody else"},
		"request principal": {"istio", istio("rules: [{from: [{source: {requestPrincipals: ['*']}}]}]"), "tokens of end users"},
		"forwarded address": {"istio", istio("rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]}]"), "forwarding headers"},
		"not, in an allow":  {"istio", istio("rules: [{from: [{source: {notPrincipals: ['cluster.local/ns/a/sa/b']}}]}]"), "also callers without an identity"},
		"prefix of a name":  {"istio", istio("rules: [{from: [{source: {principals: ['cluster.local/ns/shop/sa/we*']}}]}]"), "in place of what follows a /"},
		"two identities":    {"istio", istio("rules: [{from: [{source: {principals: ['*'], namespaces: [a]}}]}]"), "two lists"},
		"method prefix":     {"istio", istio("rules: [{to: [{operation: {methods: ['GE*']}}]}]"), "list the methods"},
		"host without port": {"istio", istio("rules: [{to: [{operation: {hosts: [shop.example]}}]}]"), "list both"},
		"claims":            {"istio", istio("rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]"), "tokens of end users"},
		"unknown field":     {"istio", istio("rules: [{too: []}]"), "too is not read"},
		"waypoint":          {"istio", strings.Replace(istio("action: ALLOW"), "selector: {matchLabels: {app: orders}}", "targetRefs: [{kind: Gateway, name: g}]", 1), "gateways and waypoints"},
		"PERMISSIVE":        {"istio", "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: shop}\nspec: {mtls: {mode: PERMISSIVE}}", "callers in without an identity"},
		"nobody selected":   {"istio", strings.Replace(istio("action: ALLOW"), "app: orders", "app: nothing", 1), "selects no workload"},
		"linkerd route":     {"linkerd", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}", "precedence"},
		"linkerd audit":     {"linkerd", "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, port: 8080, accessPolicy: audit}", "accessPolicy audit"},
		"named port":        {"linkerd", "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, port: admin, accessPolicy: all-authenticated}", "say its number"},
		"consul peer":       {"consul", "kind: ServiceIntentions\nmetadata: {name: x}\nspec: {destination: {name: orders}, sources: [{name: web, peer: east, action: allow}]}", "peer"},
		"consul jwt":        {"consul", "kind: ServiceIntentions\nmetadata: {name: x}\nspec: {destination: {name: orders}, jwt: {}, sources: []}", "spec.jwt"},
		"consul stranger":   {"consul", "kind: ServiceIntentions\nmetadata: {name: x}\nspec: {destination: {name: orders}, sources: [{name: stranger, action: allow}]}", "not in the inventory"},
		"expressions":       {"networkpolicy", "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {matchExpressions: []}}", "matchExpressions"},
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

func TestStrictAndAuditNeedNothing(t *testing.T) {
	result := read(t, "istio", `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: mtls, namespace: shop}
spec: {action: DENY, rules: [{from: [{source: {notPrincipals: ["*"]}}]}]}
`)
	if len(result.Refused) > 0 || len(result.Rules) != 2 {
		t.Errorf("got %+v, want only the two services' default of Istio, which lets everybody in", result)
	}
}

func TestLinkerdPoliciesNamePortsAndAccounts(t *testing.T) {
	result := read(t, "linkerd", `
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: orders-http, namespace: shop}
spec: {podSelector: {matchLabels: {app: orders}}, port: http}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: web, namespace: shop}
spec:
  identities: ["web.shop.serviceaccount.identity.linkerd.cluster.local"]
  identityRefs: [{kind: Namespace, name: data}]
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: net, namespace: shop}
spec: {networks: [{cidr: 10.0.0.0/8, except: [10.9.0.0/16]}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: web-may, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: orders-http}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: web}, {group: policy.linkerd.io, kind: NetworkAuthentication, name: net}]
`)
	if len(result.Refused) > 0 || len(result.Rules) != 1 {
		t.Fatalf("got %+v, want one rule", result)
	}
	table := compiled(t, result, "orders")
	for _, c := range []struct {
		id, port, ip string
		want         policy.Effect
	}{
		{"shop/web", "8080", "10.1.2.3", policy.Allow},
		{"data/anything", "8080", "10.1.2.3", policy.Allow},
		{"shop/batch", "8080", "10.1.2.3", policy.Deny},
		{"shop/web", "9090", "10.1.2.3", policy.Deny},
		{"shop/web", "8080", "10.9.9.9", policy.Deny},
		{"shop/web", "8080", "192.0.2.1", policy.Deny},
	} {
		id, _ := spiffe.ParseID("spiffe://acme.example/eks/" + c.id)
		got := decide(table, id, istioRequest{method: "GET", path: "/", port: c.port, ip: c.ip})
		if got.Effect != c.want {
			t.Errorf("%+v: got %+v", c, got)
		}
	}
}

func TestNetworkPoliciesNameCallersByTheirLabels(t *testing.T) {
	result := read(t, "networkpolicy", `
kind: NetworkPolicy
metadata: {name: db, namespace: data}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - {podSelector: {matchLabels: {app: web}}, namespaceSelector: {matchLabels: {team: sales}}}
    - {podSelector: {matchLabels: {app: orders}}, namespaceSelector: {matchLabels: {team: nobody}}}
    ports: [{port: 5432}, {protocol: UDP, port: 53}]
`)
	if len(result.Refused) != 1 || !strings.Contains(result.Refused[0].Text, "keep this part") || len(result.Left) > 0 {
		t.Errorf("egress: got %+v, want it kept where it is, and the rest adopted", result.Refused)
	}
	if len(result.Rules) != 1 {
		t.Fatalf("got %+v, want one rule", result.Rules)
	}
	if r := result.Rules[0]; r.To != "db" || len(r.From) != 1 || r.From[0] != "web" || len(r.Allow) != 1 || r.Allow[0] != "tcp 5432" {
		t.Errorf("got %+v, want web by tcp 5432", r)
	}
}

func TestInventoriesAreChecked(t *testing.T) {
	for name, change := range map[string]func(*adopt.Inventory){
		"no workloads":    func(i *adopt.Inventory) { i.Workloads = nil },
		"unknown service": func(i *adopt.Inventory) { i.Workloads[0].Protocol = 0 },
		"no id":           func(i *adopt.Inventory) { i.ID = "" },
		"part of segment": func(i *adopt.Inventory) { i.ID = "/eks/x{namespace}/{account}" },
	} {
		in := inventory()
		change(&in)
		if _, err := adopt.Read("istio", in, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := adopt.Read("cilium", inventory(), nil); err == nil {
		t.Error("an unknown system was taken")
	}
	for name, text := range map[string]string{"alias": "a: &x 1\nb: *x", "key twice": "a: 1\na: 2", "no YAML": "a: ]"} {
		if _, err := adopt.Read("istio", inventory(), []adopt.File{{Name: "x.yaml", Data: []byte(text)}}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A name of a port that is not the same number behind all of a service would open
// the one's port on the other.
func TestPortsOfOneNameAndTwoNumbersAreRefused(t *testing.T) {
	for system, text := range map[string]string{
		"linkerd":       "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, port: admin, accessPolicy: all-authenticated}",
		"networkpolicy": "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, ingress: [{ports: [{port: admin}]}]}",
	} {
		in := inventory()
		in.Workloads = pods()
		result, err := adopt.Read(system, in, []adopt.File{{Name: "x.yaml", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Refused) != 1 || !strings.Contains(result.Refused[0].Text, "9090 on some workloads behind service orders and 9091 on others") || len(result.Rules) > 0 {
			t.Errorf("%s: got %+v and rules %+v, want it refused", system, result.Refused, result.Rules)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add("istio", istioPolicy{action: "DENY", rules: []istioRule{{to: []istioOperation{{paths: []string{"/v1/*"}}}}}}.yaml(1))
	f.Add("consul", consulIntentions{destination: "orders", sources: []consulSource{{name: "web", allow: true}}}.yaml())
	f.Add("networkpolicy", "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {}, ingress: [{}]}")
	f.Add("linkerd", "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {}, port: 1, accessPolicy: all-authenticated}")
	f.Fuzz(func(t *testing.T, system, text string) {
		in := inventory()
		in.Default = "deny"
		result, err := adopt.Read(system, in, []adopt.File{{Name: "x", Data: []byte(text)}})
		if err != nil {
			return
		}
		for _, service := range result.Left {
			for _, r := range result.Rules {
				if r.To == service {
					t.Errorf("a rule for %s, which was given up", service)
				}
			}
		}
	})
}

// A service is one thing in rules: a policy for a part of its workloads would be
// wider or narrower for the rest.
func TestPartOfAServiceIsRefused(t *testing.T) {
	in := inventory()
	in.Workloads[0].Labels["version"] = "1"
	in.Workloads = append(in.Workloads, adopt.Workload{Service: "orders", Namespace: "shop", Labels: map[string]string{"app": "orders", "version": "2"}, Protocol: policy.HTTP})
	for system, text := range map[string]string{
		"istio":         "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec: {selector: {matchLabels: {version: '2'}}, rules: [{}]}",
		"linkerd":       "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {matchLabels: {version: '2'}}, port: 8080, accessPolicy: all-authenticated}",
		"networkpolicy": "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {matchLabels: {version: '2'}}, ingress: [{}]}",
		"as a caller":   "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {version: '2'}}}]}]}",
	} {
		kind, left := system, "orders"
		if system == "as a caller" {
			kind, left = "networkpolicy", "web"
		}
		result, err := adopt.Read(kind, in, []adopt.File{{Name: "x.yaml", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Refused) == 0 || !strings.Contains(result.Refused[0].Text, "1 of the 2 workloads behind service orders") || !slices.Contains(result.Left, left) {
			t.Errorf("%s: got %+v, left out %v", system, result.Refused, result.Left)
		}
		for _, r := range result.Rules {
			if r.To == left {
				t.Errorf("%s: a rule nevertheless: %+v", system, r)
			}
		}
	}
}
