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
	consul := func(sources string) string {
		return "kind: ServiceIntentions\nmetadata: {name: x}\nspec: {destination: {name: orders}, sources: " + sources + "}"
	}
	slips(t, "istio", map[string]slip{
		"fields beside source":       {istio("[{from: [{principals: ['cluster.local/ns/shop/sa/web']}]}]"), "from[0].principals is not read"},
		"fields beside operation":    {istio("[{to: [{paths: [/v1]}]}]"), "to[0].paths is not read"},
		"nothing in from":            {istio("[{from: [{}]}]"), "from[0] has no source"},
		"no source":                  {istio("[{from: [{source: null}]}]"), "from[0] has no source"},
		"empty from":                 {istio("[{from: []}]"), "from is no list"},
		"from of one":                {istio("[{from: {source: {principals: ['*']}}}]"), "from is no list"},
		"empty to":                   {istio("[{to: []}]"), "to is no list"},
		"empty when":                 {istio("[{when: {key: source.ip, values: [10.0.0.1]}}]"), "when is no list"},
		"empty list of paths":        {istio("[{to: [{operation: {paths: []}}]}]"), "paths is no list"},
		"one method, no list":        {istio("[{to: [{operation: {methods: GET}}]}]"), "methods is no list"},
		"an empty host":              {istio("[{to: [{operation: {hosts: ['']}}]}]"), "hosts is no list"},
		"empty list of blocks":       {istio("[{from: [{source: {ipBlocks: []}}]}]"), "ipBlocks is no list"},
		"rules of one":               {istio("{from: [{source: {principals: ['*']}}]}"), "rules is no list"},
		"labels of another form":     {strings.Replace(istio("[{}]"), "{app: orders}", "[app, orders]", 1), "labels are no mapping"},
		"dry run in another case":    {strings.Replace(istio("[{}]"), "namespace: shop", "namespace: shop, annotations: {istio.io/dry-run: 'True'}", 1), "say true or false"},
		"any account of a namespace": {istio("[{from: [{source: {serviceAccounts: [shop/*]}}]}]"), "is not namespace/name"},
		"hosts by their end":         {istio("[{to: [{operation: {hosts: ['*.example', '*.example:*']}}]}]"), "that name no port"},
		"a rule that is a text":      {istio("[everybody]"), "it is no mapping"},
		"a rule that is nothing":     {istio("[null]"), "it is no mapping"},
		"a policy twice":             {istio("[{}]") + "\n---\n" + istio("[]"), "a second time, after x.yaml:1"},
		"the host as a header":       {istio("[{when: [{key: 'request.headers[:authority]', values: [a]}]}]"), "say hosts"},
	})
	slips(t, "consul", map[string]slip{
		"twice":                  {consul("[{name: web, action: allow}, {name: web, action: deny}]"), "a second time"},
		"action and permissions": {consul("[{name: web, action: deny, permissions: [{action: allow, http: {pathPrefix: /}}]}]"), "no action beside it"},
		"no methods":             {consul("[{name: web, permissions: [{action: deny, http: {methods: []}}]}]"), "http.methods is no list"},
		"pseudo header":          {consul("[{name: web, permissions: [{action: deny, http: {header: [{name: ':path', prefix: /admin}]}}]}]"), `header ":path"`},
		"sources of one":         {consul("{name: web, action: deny}"), "sources is no list"},
		"http of a text":         {consul("[{name: web, permissions: [{action: allow, http: /v1}]}]"), "http is no mapping"},
		"a list of paths":        {consul("[{name: web, permissions: [{action: deny, http: {pathExact: [/v1]}}]}]"), "pathExact is no text"},
		"an empty path":          {consul("[{name: web, permissions: [{action: deny, http: {pathExact: ''}}]}]"), "pathExact is no text"},
		"one header, no list":    {consul("[{name: web, permissions: [{action: allow, http: {header: {name: tier, exact: gold}}}]}]"), "http.header is no list"},
		"an empty header value":  {consul("[{name: web, permissions: [{action: allow, http: {header: [{name: tier, exact: ''}]}}]}]"), "header.exact is no text"},
		"invert in another case": {consul("[{name: web, permissions: [{action: allow, http: {header: [{name: tier, exact: gold, invert: True}]}}]}]"), `header.invert "True"`},
		"header without a value": {consul("[{name: web, permissions: [{action: deny, http: {header: [{name: tier}]}}]}]"), "says nothing of its value"},
	})
}

func TestAttack30SlipsOfLinkerdAreNotEverybody(t *testing.T) {
	server := "apiVersion: policy.linkerd.io/v1beta3\nkind: Server\nmetadata: {name: s, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, port: 8080}\n---\n"
	linkerd := func(refs string) string {
		return server + "apiVersion: policy.linkerd.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  targetRef: {group: policy.linkerd.io, kind: Server, name: s}\n  requiredAuthenticationRefs: " + refs
	}
	mesh := "[{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: n}]"
	other := func(kind, spec string) string {
		return "\n---\napiVersion: policy.linkerd.io/v1alpha1\nkind: " + kind + "\nmetadata: {name: n, namespace: shop}\nspec: {" + spec + "}"
	}
	slips(t, "linkerd", map[string]slip{
		"two identities":             {linkerd("[{kind: ServiceAccount, name: web}, {kind: ServiceAccount, name: batch}]"), "two authentications by identity"},
		"refs of one":                {linkerd("{kind: ServiceAccount, name: web}"), "requiredAuthenticationRefs is no list"},
		"no refs":                    {linkerd("null"), "requiredAuthenticationRefs is no list"},
		"no selector":                {strings.Replace(server, "podSelector: {matchLabels: {app: orders}}, ", "", 1), "podSelector: there is none"},
		"another network field":      {linkerd("[{group: policy.linkerd.io, kind: NetworkAuthentication, name: n}]") + "\n---\napiVersion: policy.linkerd.io/v1alpha1\nkind: NetworkAuthentication\nmetadata: {name: n, namespace: shop}\nspec: {networks: [{cidr: 10.0.0.0/8, excepts: [10.1.0.0/16]}]}", "excepts of a network"},
		"a Server twice":             {server + server, "a second time, after x.yaml:1"},
		"two Servers of a port":      {server + strings.Replace(strings.Replace(server, "name: s,", "name: t,", 1), "8080", "http", 1), "port 8080 of orders has a Server already, shop/s"},
		"a port in quotes":           {strings.Replace(server, "8080", "'8080'", 1), "say its number"},
		"a kind of another group":    {linkerd("[{group: example.org, kind: ServiceAccount, name: web}]"), "ServiceAccount of group example.org"},
		"a kind of no group":         {strings.Replace(linkerd("[]"), "group: policy.linkerd.io, ", "", 1), "Server of group core"},
		"namespace of a reference":   {linkerd("[{kind: ServiceAccount, name: web, nmaespace: data}]"), "nmaespace of a reference"},
		"another namespace":          {strings.Replace(linkerd("[]"), "{group: policy.linkerd.io, kind: Server, name: s}", "{kind: Namespace, name: data}", 1), "a policy is for its own"},
		"any account":                {linkerd("[{kind: ServiceAccount, name: '**'}]"), "not names of Kubernetes"},
		"two networks":               {linkerd("[{group: policy.linkerd.io, kind: NetworkAuthentication, name: n}, {group: policy.linkerd.io, kind: NetworkAuthentication, name: n}]") + other("NetworkAuthentication", "networks: [{cidr: 10.0.0.0/8}]"), "two authentications by network"},
		"any account by identity":    {linkerd(mesh) + other("MeshTLSAuthentication", "identities: ['**.shop.serviceaccount.identity.linkerd.cluster.local']"), "with * for the account"},
		"a name of another mesh":     {linkerd(mesh) + other("MeshTLSAuthentication", "identities: ['web.shop.serviceaccount.identity.linkerd.other.example']"), "is of a trust domain that"},
		"any namespace by reference": {linkerd(mesh) + other("MeshTLSAuthentication", "identityRefs: [{kind: Namespace, name: '*'}]"), "not a name of Kubernetes"},
		"one identity, no list":      {linkerd(mesh) + other("MeshTLSAuthentication", "identities: '*', identityRefs: [{kind: ServiceAccount, name: web}]"), "identities is no list"},
	})
}

func TestAttack30SlipsOfNetworkPoliciesAreNotEverybody(t *testing.T) {
	network := func(ingress string) string {
		return "kind: NetworkPolicy\nmetadata: {name: x, namespace: shop}\nspec: {podSelector: {matchLabels: {app: orders}}, ingress: " + ingress + "}"
	}
	slips(t, "networkpolicy", map[string]slip{
		"empty peer":               {network("[{from: [{}]}]"), "either an ipBlock or selectors"},
		"block and pods":           {network("[{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]"), "either an ipBlock or selectors"},
		"from of one peer":         {network("[{from: {podSelector: {}}}]"), "from is no list"},
		"port 0":                   {network("[{ports: [{port: 0}]}]"), "say its number"},
		"misspelt port":            {network("[{ports: [{ports: 80}]}]"), "ports: ports is not read"},
		"labels nobody told of":    {network("[{from: [{namespaceSelector: {matchLabels: {team: sales}}}]}]"), "whether namespace data has the label team"},
		"rules beside ingress":     {strings.Replace(network("[]"), "ingress", "ingres", 1), "ingres beside podSelector is not read"},
		"a rule that is a text":    {network("[everybody]"), "it is no mapping"},
		"a rule that is nothing":   {network("[null]"), "it is no mapping"},
		"one rule, no list":        {network("{from: [{podSelector: {}}]}"), "ingress is no list"},
		"a port that is no entry":  {network("[{ports: [8080]}]"), "an entry is no mapping"},
		"the end of no port":       {network("[{ports: [{endPort: 9090}]}]"), `endPort "9090"`},
		"the end before the port":  {network("[{ports: [{port: 9090, endPort: 8080}]}]"), `endPort "8080"`},
		"the end of a named port":  {network("[{ports: [{port: http, endPort: 9090}]}]"), `endPort "9090"`},
		"an end that is no number": {network("[{ports: [{port: 8080, endPort: last}]}]"), `endPort "last"`},
		"an octal port":            {network("[{ports: [{port: 010}]}]"), "say its number"},
		"a port beyond all":        {network("[{ports: [{port: 65536}]}]"), "say its number"},
		"a protocol in lower case": {network("[{ports: [{protocol: tcp, port: 8080}]}]"), `protocol "tcp"`},
		"types in lower case":      {strings.Replace(network("[{}]"), "ingress:", "policyTypes: [egress], ingress:", 1), `policyTypes: "egress"`},
		"one type, no list":        {strings.Replace(network("[{}]"), "ingress:", "policyTypes: Egress, ingress:", 1), "policyTypes is no list"},
		"a policy twice":           {network("[{}]") + "\n---\n" + network("[]"), "a second time, after x.yaml:1"},
		"another NetworkPolicy":    {"apiVersion: projectcalico.org/v3\n" + network("[{}]"), "projectcalico.org/v3"},
		"an AdminNetworkPolicy":    {network("[{}]") + "\n---\napiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: deny}\nspec: {}", "may deny what"},
	})
}

// slip is a document, and what the refusal of it says.
type slip struct{ text, why string }

func slips(t *testing.T, system string, all map[string]slip) {
	t.Helper()
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			result := read(t, system, c.text)
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
