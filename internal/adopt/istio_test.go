package adopt_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// The reference: what Istio documents (policy-semantics 2.1.3 and 2.1.4), as
// plainly as it can be written, against what we compile of the adopted rules.

type istioSource struct {
	principals, namespaces, serviceAccounts, trustDomains, notPrincipals, notNamespaces, notTrustDomains, ipBlocks []string
}

type istioOperation struct{ methods, notMethods, paths, notPaths, ports, notPorts []string }

type istioWhen struct {
	key               string
	values, notValues []string
}

type istioRule struct {
	from []istioSource
	to   []istioOperation
	when []istioWhen
}

type istioPolicy struct {
	action string
	rules  []istioRule
}

type istioRequest struct {
	domain, namespace, account, method, path, port, ip string // no domain: ours; no namespace: no account of Kubernetes
	headers                                            map[string]string
}

func (r istioRequest) principal() string {
	domain := r.domain
	if domain == "" {
		domain = "cluster.local"
	}
	if r.namespace == "" {
		return domain + "/vms/shop/" + r.account
	}
	return domain + "/ns/" + r.namespace + "/sa/" + r.account
}

// id is the caller's here: in our trust domain as the inventory says, in another
// as Istio has it.
func (r istioRequest) id(t interface{ Fatalf(string, ...any) }) spiffe.ID {
	path := "spiffe://acme.example/eks/" + r.namespace + "/" + r.account
	switch {
	case r.domain != "":
		path = "spiffe://" + r.principal()
	case r.namespace == "":
		path = "spiffe://acme.example/vms/shop/" + r.account
	}
	id, err := spiffe.ParseID(path)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return id
}

func textMatches(value, got string) bool {
	switch {
	case value == "*":
		return got != ""
	case strings.HasPrefix(value, "*"):
		return strings.HasSuffix(got, value[1:])
	case strings.HasSuffix(value, "*"):
		return strings.HasPrefix(got, strings.TrimSuffix(value, "*"))
	}
	return value == got
}

func anyMatches(values []string, got string) bool {
	return slices.ContainsFunc(values, func(v string) bool { return textMatches(v, got) })
}

// field is one positive or negated list: absent lists match.
func field(values []string, negated bool, got string) bool {
	return len(values) == 0 || anyMatches(values, got) != negated
}

func (s istioSource) matches(r istioRequest) bool {
	inBlock := len(s.ipBlocks) == 0
	for _, b := range s.ipBlocks {
		inBlock = inBlock || netip.MustParsePrefix(b).Contains(netip.MustParseAddr(r.ip))
	}
	domain, _, _ := strings.Cut(r.principal(), "/")
	return field(s.principals, false, r.principal()) && field(s.namespaces, false, r.namespace) && field(s.trustDomains, false, domain) &&
		field(s.serviceAccounts, false, r.namespace+"/"+r.account) && field(s.notPrincipals, true, r.principal()) &&
		field(s.notNamespaces, true, r.namespace) && field(s.notTrustDomains, true, domain) && inBlock
}

func (o istioOperation) matches(r istioRequest) bool {
	return field(o.methods, false, r.method) && field(o.notMethods, true, r.method) &&
		field(o.paths, false, r.path) && field(o.notPaths, true, r.path) && field(o.ports, false, r.port) && field(o.notPorts, true, r.port)
}

func (w istioWhen) matches(r istioRequest) bool {
	got, there := r.headers["tier"], false
	switch w.key {
	case "request.headers[tier]":
		_, there = r.headers["tier"]
	case "source.namespace":
		got, there = r.namespace, true
	}
	return (len(w.values) == 0 || there && anyMatches(w.values, got)) && (len(w.notValues) == 0 || !there || !anyMatches(w.notValues, got))
}

func (rule istioRule) matches(r istioRequest) bool {
	return (len(rule.from) == 0 || slices.ContainsFunc(rule.from, func(s istioSource) bool { return s.matches(r) })) &&
		(len(rule.to) == 0 || slices.ContainsFunc(rule.to, func(o istioOperation) bool { return o.matches(r) })) &&
		!slices.ContainsFunc(rule.when, func(w istioWhen) bool { return !w.matches(r) })
}

func istioAllows(policies []istioPolicy, r istioRequest) bool {
	matched := func(action string) (any, match bool) {
		for _, p := range policies {
			if p.action == action {
				any = true
				match = match || slices.ContainsFunc(p.rules, func(rule istioRule) bool { return rule.matches(r) })
			}
		}
		return any, match
	}
	if _, denied := matched("DENY"); denied {
		return false
	}
	some, allowed := matched("ALLOW")
	return !some || allowed
}

func yamlList(key string, values []string) string {
	if len(values) == 0 {
		return ""
	}
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = fmt.Sprintf("%q", v)
	}
	return key + ": [" + strings.Join(quoted, ", ") + "], "
}

func (s istioSource) yaml() string {
	return yamlList("principals", s.principals) + yamlList("namespaces", s.namespaces) + yamlList("serviceAccounts", s.serviceAccounts) +
		yamlList("trustDomains", s.trustDomains) + yamlList("notPrincipals", s.notPrincipals) + yamlList("notNamespaces", s.notNamespaces) +
		yamlList("notTrustDomains", s.notTrustDomains) + yamlList("ipBlocks", s.ipBlocks)
}

func (p istioPolicy) yaml(n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p%d, namespace: shop}\n", n)
	fmt.Fprintf(&b, "spec:\n  selector: {matchLabels: {app: orders}}\n  action: %s\n  rules:\n", p.action)
	for _, r := range p.rules {
		b.WriteString("  - {")
		if len(r.from) > 0 {
			b.WriteString("from: [")
			for _, s := range r.from {
				b.WriteString("{source: {" + s.yaml() + "}}, ")
			}
			b.WriteString("], ")
		}
		if len(r.to) > 0 {
			b.WriteString("to: [")
			for _, o := range r.to {
				b.WriteString("{operation: {" + yamlList("methods", o.methods) + yamlList("notMethods", o.notMethods) +
					yamlList("paths", o.paths) + yamlList("notPaths", o.notPaths) + yamlList("ports", o.ports) + yamlList("notPorts", o.notPorts) + "}}, ")
			}
			b.WriteString("], ")
		}
		if len(r.when) > 0 {
			b.WriteString("when: [")
			for _, w := range r.when {
				b.WriteString("{key: \"" + w.key + "\", " + yamlList("values", w.values) + yamlList("notValues", w.notValues) + "}, ")
			}
			b.WriteString("], ")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

func some(values ...string) *rapid.Generator[[]string] {
	return rapid.Custom(func(t *rapid.T) []string {
		if rapid.Bool().Draw(t, "absent") {
			return nil
		}
		return rapid.SliceOfNDistinct(rapid.SampledFrom(values), 1, 2, rapid.ID).Draw(t, "values")
	})
}

func drawSource(t *rapid.T, deny bool) istioSource {
	s := istioSource{ipBlocks: some("10.0.0.0/8", "10.1.2.3/32").Draw(t, "ipBlocks")}
	switch rapid.IntRange(0, 4).Draw(t, "identities") {
	case 0:
		s.principals = some("cluster.local/ns/shop/sa/web", "cluster.local/ns/shop/*", "cluster.local/ns/data/sa/batch", "cluster.local/*", "other.example/*", "other.example/ns/shop/sa/web", "*").Draw(t, "principals")
	case 1:
		s.namespaces = some("shop", "data").Draw(t, "namespaces")
	case 2:
		s.serviceAccounts = some("shop/web", "data/batch").Draw(t, "serviceAccounts")
	case 3:
		s.trustDomains = some("cluster.local", "other.example", "*").Draw(t, "trustDomains")
	}
	if deny {
		s.notPrincipals = some("cluster.local/ns/shop/sa/web", "cluster.local/ns/data/sa/batch", "cluster.local/*").Draw(t, "notPrincipals")
		s.notNamespaces = some("shop", "data").Draw(t, "notNamespaces")
		s.notTrustDomains = some("cluster.local", "other.example").Draw(t, "notTrustDomains")
	}
	if strings.Count(s.yaml(), "[") == 0 {
		s.principals = []string{"*"}
	}
	return s
}

func drawPolicy(t *rapid.T) istioPolicy {
	p := istioPolicy{action: rapid.SampledFrom([]string{"ALLOW", "ALLOW", "DENY"}).Draw(t, "action")}
	for range rapid.IntRange(1, 3).Draw(t, "rules") {
		var r istioRule
		for range rapid.IntRange(0, 2).Draw(t, "sources") {
			r.from = append(r.from, drawSource(t, p.action == "DENY"))
		}
		for range rapid.IntRange(0, 2).Draw(t, "operations") {
			o := istioOperation{
				methods: some("GET", "POST", "*").Draw(t, "methods"), notMethods: some("DELETE", "POST").Draw(t, "notMethods"),
				paths:    some("/v1", "/v1/*", "/v1*", "*/7", "/health", "*").Draw(t, "paths"),
				notPaths: some("/v1/orders/*", "/health", "*7").Draw(t, "notPaths"), ports: some("8080", "9090").Draw(t, "ports"),
				notPorts: some("9090").Draw(t, "notPorts"),
			}
			if o.methods == nil && o.notMethods == nil && o.paths == nil && o.notPaths == nil && o.ports == nil && o.notPorts == nil {
				o.methods = []string{"*"}
			}
			r.to = append(r.to, o)
		}
		for range rapid.IntRange(0, 1).Draw(t, "conditions") {
			w := istioWhen{key: "request.headers[tier]", values: some("gold", "si*", "*").Draw(t, "values"), notValues: some("silver", "*old").Draw(t, "notValues")}
			if w.values == nil && w.notValues == nil {
				w = istioWhen{key: "source.namespace", values: []string{"shop"}}
			}
			r.when = append(r.when, w)
		}
		p.rules = append(p.rules, r)
	}
	return p
}

func drawRequest(t *rapid.T) istioRequest {
	r := istioRequest{
		domain:    rapid.SampledFrom([]string{"", "", "", "other.example"}).Draw(t, "domain"),
		namespace: rapid.SampledFrom([]string{"shop", "data", "shop", "data", ""}).Draw(t, "namespace"),
		account:   rapid.SampledFrom([]string{"web", "batch"}).Draw(t, "account"),
		method:    rapid.SampledFrom([]string{"GET", "POST", "DELETE"}).Draw(t, "method"),
		path:      rapid.SampledFrom([]string{"/", "/v1", "/v1/", "/v12", "/v1/orders", "/v1/orders/", "/v1/orders/7", "/health", "/health/7", "/v1*", "/a/b/c/7"}).Draw(t, "path"),
		port:      rapid.SampledFrom([]string{"8080", "9090"}).Draw(t, "port"),
		ip:        rapid.SampledFrom([]string{"10.1.2.3", "10.9.9.9", "192.0.2.1"}).Draw(t, "ip"),
		headers:   map[string]string{},
	}
	if tier := rapid.SampledFrom([]string{"", "gold", "silver", "sixth"}).Draw(t, "tier"); tier != "" {
		r.headers["tier"] = tier
	}
	return r
}

func inventory() adopt.Inventory {
	return adopt.Inventory{
		TrustDomain: "acme.example", ID: "/eks/{namespace}/{account}",
		Workloads: []adopt.Workload{
			{Service: "orders", Namespace: "shop", Labels: map[string]string{"app": "orders"}, Protocol: policy.HTTP, Ports: map[string]int{"http": 8080}},
			{Service: "web", Namespace: "shop", Labels: map[string]string{"app": "web"}, Protocol: policy.HTTP},
			{Service: "db", Namespace: "data", Labels: map[string]string{"app": "db"}, Protocol: policy.TCP},
		},
	}
}

func compiled(t interface {
	Fatalf(string, ...any)
}, result adopt.Result, service string,
) *policy.Table {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatalf("%v", err)
	}
	set := policy.Set{TrustDomain: td, Rules: make(map[string]policy.Rule), Services: map[string]policy.Service{
		"orders": {Name: "orders", Identities: []string{"/eks/shop/orders"}, Protocol: policy.HTTP},
		"web":    {Name: "web", Identities: []string{"/eks/shop/web"}, Protocol: policy.HTTP},
		"db":     {Name: "db", Identities: []string{"/eks/data/db"}, Protocol: policy.TCP},
	}}
	for _, r := range result.Rules {
		set.Rules[r.Name] = r
	}
	if _, err := set.Validate(); err != nil {
		t.Fatalf("the adopted rules are not valid: %v", err)
	}
	table, err := policy.Compile(set, service)
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	return table
}

func TestAdoptedIstioPoliciesDecideAsIstioDoes(t *testing.T) {
	adopted := 0
	check(t, func(t *rapid.T) {
		var policies []istioPolicy
		var files []adopt.File
		for n := range rapid.IntRange(1, 3).Draw(t, "policies") {
			p := drawPolicy(t)
			policies = append(policies, p)
			files = append(files, adopt.File{Name: fmt.Sprintf("p%d.yaml", n), Data: []byte(p.yaml(n))})
		}
		result, err := adopt.Read("istio", inventory(), files)
		if err != nil {
			t.Fatalf("%v\n%s", err, files[0].Data)
		}
		if len(result.Refused) > 0 {
			if len(result.Rules) > 0 {
				t.Fatalf("a part was refused, and still rules were made: %+v", result)
			}
			t.Fatalf("refused: %+v", result.Refused)
		}
		adopted++
		table := compiled(t, result, "orders")
		for range 20 {
			r := drawRequest(t)
			got := decide(table, r.id(t), r)
			// Those of other trust domains are let in only where policies name these.
			if want := istioAllows(policies, r); (got.Effect == policy.Allow) != want && (!want || r.domain == "") {
				var text strings.Builder
				for _, f := range files {
					text.Write(f.Data)
				}
				t.Fatalf("%+v: Istio allows: %v, the adopted rules: %+v\n%s\n%+v", r, want, got, text.String(), result.Rules)
			}
		}
	})
	if adopted == 0 {
		t.Error("nothing was adopted: the test shows nothing")
	}
}

func decide(table *policy.Table, id spiffe.ID, r istioRequest) policy.Decision {
	header := http.Header{}
	for name, value := range r.headers {
		header.Set(name, value)
	}
	var port uint16
	fmt.Sscan(r.port, &port) //nolint:errcheck // a number of ours
	return table.Decide(table.Peer(id), policy.Request{
		Protocol: policy.HTTP, Method: r.method, Path: r.path, Port: port, Host: "orders",
		Facts: &policy.Facts{Headers: header, Source: netip.MustParseAddr(r.ip)},
	})
}
