package adopt_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/adopt"
)

// The reference: what Linkerd documents of its policies, and its controller and
// proxy make of them (policy-semantics 2.4), as plainly as it can be written,
// against what we compile of the adopted rules.

const (
	linkerdGroup = "policy.linkerd.io"
	meshNames    = ".serviceaccount.identity.linkerd."
)

type linkerdServer struct {
	namespace, name        string
	labels                 map[string]string
	port, protocol, access string // a port is a number or a name
}

type linkerdRef struct{ group, kind, namespace, name string }

type linkerdMeshTLS struct {
	namespace, name string
	identities      []string
	refs            []linkerdRef
}

type linkerdNetwork struct {
	cidr   string
	except []string
}

type linkerdNetworks struct {
	namespace, name string
	networks        []linkerdNetwork
}

type linkerdPolicy struct {
	namespace, name string
	target          linkerdRef
	required        []linkerdRef
}

type linkerdSet struct {
	servers  []linkerdServer
	meshTLS  []linkerdMeshTLS
	networks []linkerdNetworks
	policies []linkerdPolicy
	routes   []string // by namespace
}

// is compares as the controller does: no group is that of the core.
func (r linkerdRef) is(group, kind string) bool {
	return cmp.Or(r.group, "core") == group && r.kind == kind
}

// named says whether a caller is meant by an identity. Only DNS names are matched
// by their end; any other identity is itself or nothing.
func (c meshCaller) named(identity string) bool {
	identity = strings.Replace(identity, meshNames+"old.example", meshNames+"cluster.local", 1) // one, by the inventory
	switch {
	case c.dns == "":
		return identity == c.id && c.id != ""
	case identity == "*":
		return true
	case strings.HasPrefix(identity, "*."):
		return strings.HasSuffix(c.dns, identity[1:])
	}
	return identity == c.dns
}

func accountName(namespace, account string) string {
	return account + "." + namespace + meshNames + "cluster.local"
}

// serverOf is the Server of a port of a pod; of two the first by name.
func (s linkerdSet) serverOf(pod adopt.Workload, port int) *linkerdServer {
	var found *linkerdServer
	for i, server := range s.servers {
		number, err := strconv.Atoi(server.port)
		if err != nil {
			number = pod.Ports[server.port]
		}
		if server.namespace == pod.Namespace && has(pod.Labels, server.labels) && number == port && (found == nil || server.name < found.name) {
			found = &s.servers[i]
		}
	}
	return found
}

// allows says whether Linkerd lets a caller in, and whether a Server says so; what
// no Server speaks of is left to the default policy of the cluster.
func (s linkerdSet) allows(pod adopt.Workload, port int, c meshCaller, ip netip.Addr) (allowed, governed bool) {
	server := s.serverOf(pod, port)
	if server == nil {
		return true, false
	}
	if slices.Contains(s.routes, server.namespace) {
		return false, true // what matches no route is answered with 404
	}
	switch server.access {
	case "all-unauthenticated", "cluster-unauthenticated", "audit":
		return true, true
	case "all-authenticated", "cluster-authenticated":
		if c.dns != "" {
			return true, true
		}
	}
	for _, p := range s.policies {
		mine := p.target.is(linkerdGroup, "Server") && p.target.name == server.name || p.target.is("core", "Namespace") && p.target.name == p.namespace
		if p.namespace == server.namespace && mine && s.hold(p, c, ip) {
			return true, true
		}
	}
	return false, true
}

// hold says whether all that a policy requires holds: at most one authentication
// by identity and one by network, and each of them is there.
func (s linkerdSet) hold(p linkerdPolicy, c meshCaller, ip netip.Addr) bool {
	identities, networks, all := 0, 0, true
	for _, ref := range p.required {
		ref.namespace = cmp.Or(ref.namespace, p.namespace)
		switch {
		case ref.is("core", "ServiceAccount"):
			identities++
			all = all && c.named(accountName(ref.namespace, ref.name))
		case ref.is(linkerdGroup, "MeshTLSAuthentication"):
			identities++
			all = all && slices.ContainsFunc(s.meshTLS, func(m linkerdMeshTLS) bool {
				return m.namespace == ref.namespace && m.name == ref.name && m.matches(c)
			})
		case ref.is(linkerdGroup, "NetworkAuthentication"):
			networks++
			all = all && slices.ContainsFunc(s.networks, func(n linkerdNetworks) bool {
				return n.namespace == ref.namespace && n.name == ref.name && slices.ContainsFunc(n.networks, func(n linkerdNetwork) bool { return n.contains(ip) })
			})
		default:
			return false
		}
	}
	return all && identities <= 1 && networks <= 1
}

func (m linkerdMeshTLS) matches(c meshCaller) bool {
	return slices.ContainsFunc(m.identities, c.named) || slices.ContainsFunc(m.refs, func(ref linkerdRef) bool {
		if ref.kind == "Namespace" {
			return c.named("*." + ref.name + meshNames + "cluster.local")
		}
		return c.named(accountName(cmp.Or(ref.namespace, m.namespace), ref.name))
	})
}

func (n linkerdNetwork) contains(ip netip.Addr) bool {
	in := func(block string) bool {
		if addr, err := netip.ParseAddr(block); err == nil {
			return addr == ip
		}
		return netip.MustParsePrefix(block).Contains(ip)
	}
	return in(n.cidr) && !slices.ContainsFunc(n.except, in)
}

func (r linkerdRef) yaml() string {
	var b strings.Builder
	for _, f := range [][2]string{{"group", r.group}, {"kind", r.kind}, {"namespace", r.namespace}, {"name", r.name}} {
		if f[1] != "" {
			fmt.Fprintf(&b, "%s: %q, ", f[0], f[1])
		}
	}
	return "{" + b.String() + "}"
}

func (n linkerdNetwork) yaml() string {
	return fmt.Sprintf("{cidr: %q, ", n.cidr) + yamlList("except", n.except) + "}"
}

// joined is the YAML of a list.
func joined[T interface{ yaml() string }](key string, list []T) string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = item.yaml()
	}
	return key + ": [" + strings.Join(texts, ", ") + "]"
}

func (s linkerdSet) yaml() string {
	var b strings.Builder
	object := func(version, kind, namespace, name, spec string) {
		fmt.Fprintf(&b, "---\napiVersion: policy.linkerd.io/%s\nkind: %s\nmetadata: {name: %s, namespace: %s}\nspec: {%s}\n", version, kind, name, namespace, spec)
	}
	for _, p := range s.policies {
		object("v1alpha1", "AuthorizationPolicy", p.namespace, p.name, "targetRef: "+p.target.yaml()+", "+joined("requiredAuthenticationRefs", p.required))
	}
	for _, server := range s.servers {
		spec := "podSelector: " + labelsYAML(server.labels) + ", port: " + server.port
		if server.protocol != "" {
			spec += ", proxyProtocol: " + server.protocol
		}
		if server.access != "" {
			spec += ", accessPolicy: " + server.access
		}
		object("v1beta3", "Server", server.namespace, server.name, spec)
	}
	for _, m := range s.meshTLS {
		spec := yamlList("identities", m.identities)
		if len(m.refs) > 0 {
			spec += joined("identityRefs", m.refs)
		}
		object("v1alpha1", "MeshTLSAuthentication", m.namespace, m.name, spec)
	}
	for _, n := range s.networks {
		object("v1alpha1", "NetworkAuthentication", n.namespace, n.name, joined("networks", n.networks))
	}
	for _, namespace := range s.routes {
		object("v1beta3", "HTTPRoute", namespace, "r", "parentRefs: [{group: policy.linkerd.io, kind: Server, name: s0}], rules: [{}]")
	}
	return b.String()
}

// linkerdDraw draws objects. What is odd has no counterpart here, or is nothing to
// Linkerd itself.
type linkerdDraw struct {
	*rapid.T
	odd string
	set linkerdSet
}

func (d *linkerdDraw) server(n int) {
	s := rapid.SampledFrom([]linkerdServer{
		{namespace: "shop", labels: map[string]string{"app": "orders"}, port: "8080"},
		{namespace: "shop", labels: map[string]string{"app": "orders"}, port: "main"},
		{namespace: "shop", labels: map[string]string{"app": "orders"}, port: "9090"},
		{namespace: "shop", port: "main"},
		{namespace: "shop", port: "9091"},
		{namespace: "data", labels: map[string]string{"app": "db"}, port: "5432"},
		{namespace: "data", port: "main"},
	}).Draw(d.T, "server")
	s.name = "s" + strconv.Itoa(n)
	s.protocol = rapid.SampledFrom([]string{"", "unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS"}).Draw(d.T, "protocol")
	s.access = rapid.SampledFrom([]string{"", "", "deny", "all-authenticated", "all-unauthenticated"}).Draw(d.T, "access")
	s.access = sometimes(d.T, d.odd == "access", s.access, "audit", "cluster-authenticated", "cluster-unauthenticated")
	s.port = sometimes(d.T, d.odd == "port", s.port, "admin", "7070")
	s.name = sometimes(d.T, d.odd == "server", s.name, "s0")
	if s.namespace == "shop" && d.odd == "tier" {
		s.labels = map[string]string{"tier": "blue"}
	}
	for _, pod := range pods() {
		for _, port := range requestPorts {
			if one := (linkerdSet{servers: []linkerdServer{s}}); one.serverOf(pod, port) != nil && d.set.serverOf(pod, port) != nil && d.odd != "server" {
				return
			}
		}
	}
	d.set.servers = append(d.set.servers, s)
}

func (d *linkerdDraw) authentications(n int) {
	namespace := func() string { return rapid.SampledFrom([]string{"shop", "data"}).Draw(d.T, "namespace") }
	m := linkerdMeshTLS{namespace: namespace(), name: "m" + strconv.Itoa(n)}
	m.identities = some("*", accountName("shop", "web"), accountName("data", "*"), accountName("data", "batch"), "web.shop"+meshNames+"old.example").Draw(d.T, "identities")
	if m.identities == nil || rapid.IntRange(0, 3).Draw(d.T, "both") == 0 {
		m.refs = rapid.SliceOfN(rapid.SampledFrom([]linkerdRef{
			{kind: "ServiceAccount", name: "web"}, {group: "core", kind: "ServiceAccount", namespace: "data", name: "batch"}, {kind: "Namespace", name: "shop"},
		}), 1, 2).Draw(d.T, "identityRefs")
	}
	if m.identities != nil {
		m.identities[0] = sometimes(d.T, d.odd == "identity", m.identities[0], accountName("shop", "we*"), accountName("shop", "**"), accountName("*", "*"),
			"web.shop"+meshNames+"other.example", "*.other.example", "spiffe://acme.example/vms/shop/web")
	}
	if m.refs != nil {
		m.refs[0].name = sometimes(d.T, d.odd == "identityRef", m.refs[0].name, "*", "**")
	}
	d.set.meshTLS = append(d.set.meshTLS, m)
	d.set.networks = append(d.set.networks, linkerdNetworks{namespace(), "n" + strconv.Itoa(n), rapid.SliceOfN(rapid.Custom(drawNetwork), 1, 2).Draw(d.T, "networks")})
}

func drawNetwork(t *rapid.T) linkerdNetwork {
	n := linkerdNetwork{cidr: rapid.SampledFrom([]string{"10.0.0.0/8", "10.1.2.3/16", "192.0.2.1/32", "0.0.0.0/0", "::/0", "2001:db8::/32"}).Draw(t, "cidr")}
	if strings.HasPrefix(n.cidr, "10.0") || strings.HasPrefix(n.cidr, "0.") {
		n.except = some("10.9.0.0/16", "10.1.2.3/32").Draw(t, "except")
	}
	return n
}

func (d *linkerdDraw) policy(n int) {
	server := rapid.SampledFrom(d.set.servers).Draw(d.T, "target")
	p := linkerdPolicy{namespace: server.namespace, name: "p" + strconv.Itoa(n), target: linkerdRef{group: linkerdGroup, kind: "Server", name: server.name}}
	if rapid.IntRange(0, 2).Draw(d.T, "of the namespace") == 0 {
		p.target = linkerdRef{kind: "Namespace", name: p.namespace}
	}
	m, n2 := rapid.SampledFrom(d.set.meshTLS).Draw(d.T, "meshTLS"), rapid.SampledFrom(d.set.networks).Draw(d.T, "network")
	identity := []linkerdRef{{linkerdGroup, "MeshTLSAuthentication", m.namespace, m.name}, {"", "ServiceAccount", "shop", "web"}, {"core", "ServiceAccount", "", "batch"}}
	network := linkerdRef{linkerdGroup, "NetworkAuthentication", n2.namespace, n2.name}
	if rapid.Bool().Draw(d.T, "network first") {
		p.required = append(p.required, network)
	}
	if rapid.IntRange(0, 3).Draw(d.T, "identity") > 0 {
		p.required = append(p.required, rapid.SampledFrom(identity).Draw(d.T, "required"))
	}
	p.name = sometimes(d.T, d.odd == "policy", p.name, "p0")
	p.target.name = sometimes(d.T, d.odd == "target", p.target.name, "s0", "s9", "data")
	p.target.group, p.target.kind = sometimes(d.T, d.odd == "group", p.target.group, "", "core"), sometimes(d.T, d.odd == "kind", p.target.kind, "HTTPRoute", "Server")
	if d.odd == "required" {
		p.required = append(p.required, rapid.SampledFrom(append(identity, network, linkerdRef{"", "ServiceAccount", "shop", "**"}, linkerdRef{"", "MeshTLSAuthentication", m.namespace, m.name},
			linkerdRef{linkerdGroup, "NetworkAuthentication", "ops", "n0"}, linkerdRef{linkerdGroup, "ServiceAccount", "shop", "web"})).Draw(d.T, "odd required"))
	}
	d.set.policies = append(d.set.policies, p)
}

func TestAdoptedLinkerdPoliciesDecideAsLinkerdDoes(t *testing.T) {
	tally := tally{}
	check(t, func(t *rapid.T) {
		d := linkerdDraw{T: t, odd: oddity(t, "access", "port", "server", "tier", "identity", "identityRef", "policy", "target", "group", "kind", "required", "route")}
		for n := range rapid.IntRange(1, 3).Draw(t, "servers") {
			d.server(n)
		}
		for n := range rapid.IntRange(1, 2).Draw(t, "authentications") {
			d.authentications(n)
		}
		for n := range rapid.IntRange(0, 3).Draw(t, "policies") {
			d.policy(n)
		}
		if d.odd == "route" {
			d.set.routes = []string{"shop"}
		}
		text := d.set.yaml()
		// One name is one object, and of two the later is what the cluster has.
		d.set.servers = latest(d.set.servers, func(s linkerdServer) string { return s.namespace + "/" + s.name })
		d.set.policies = latest(d.set.policies, func(p linkerdPolicy) string { return p.namespace + "/" + p.name })
		tally.compare(t, adopting{system: "linkerd", text: text, odd: d.odd != "", allows: d.set.allows})
	})
	tally.check(t)
}
