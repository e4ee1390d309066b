package adopt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/policy"
)

// linkerdGroup is the API group of Linkerd's policies.
const linkerdGroup = "policy.linkerd.io"

// linkerdDocs is the objects that refer to each other by name.
type linkerdDocs struct {
	servers, meshTLS, networks map[string]*node // by namespace/name
	policies                   []*node
}

// linkerd adopts Server, AuthorizationPolicy, MeshTLSAuthentication and
// NetworkAuthentication.
func (b *book) linkerd(docs []*node) {
	all := linkerdDocs{servers: map[string]*node{}, meshTLS: map[string]*node{}, networks: map[string]*node{}}
	for _, doc := range docs {
		group, _, _ := strings.Cut(doc.get("apiVersion").text(), "/")
		kind := doc.get("kind").text()
		o := origin{at: doc.at(), object: kind + " " + nameOf(doc), services: names(b.inventory.selected(namespaceOf(doc), nil))}
		switch {
		case group != linkerdGroup && (kind == "HTTPRoute" || kind == "GRPCRoute"):
			b.refuse(o, linkerdRoutes)
			continue
		case group != linkerdGroup:
			b.note(o, "not a policy of Linkerd: passed over")
			continue
		}
		if kind == "MeshTLSAuthentication" || kind == "NetworkAuthentication" {
			o.services = names(b.inventory.Workloads) // policies of any namespace refer to it
		}
		if b.twice(o) {
			continue
		}
		switch kind {
		case "Server":
			all.servers[nameOf(doc)] = doc
		case "AuthorizationPolicy":
			all.policies = append(all.policies, doc)
		case "MeshTLSAuthentication":
			all.meshTLS[nameOf(doc)] = doc
		case "NetworkAuthentication":
			all.networks[nameOf(doc)] = doc
		case "HTTPRoute":
			b.refuse(o, linkerdRoutes)
		default:
			b.refuse(o, "kind %s is not read", kind)
		}
	}
	taken := make(servicePorts)
	for _, name := range sorted(all.servers) {
		b.linkerdServer(all.servers[name], taken)
	}
	for _, doc := range all.policies {
		b.linkerdPolicy(doc, all)
	}
	b.linkerdDefaults(taken)
}

const linkerdRoutes = "routes change which authorizations hold by their precedence: write rules with paths for what they match"

// servicePorts is the Server of each port of each service.
type servicePorts map[string]map[int]string

// linkerdDefaults says what is left to Linkerd's default policy, which is not ours.
func (b *book) linkerdDefaults(taken servicePorts) {
	for _, service := range names(b.inventory.Workloads) {
		what := "no Server in these files selects it"
		if len(taken[service]) > 0 {
			what = fmt.Sprintf("no Server in these files is for ports of it other than %v", slices.Sorted(maps.Keys(taken[service])))
		}
		b.note(origin{object: "service " + service}, "%s: Linkerd's default policy decides there, here nothing is allowed until a rule says so", what)
	}
}

// serverTargets is the services a Server selects, a workload of each.
func (b *book) serverTargets(doc *node) (targets []Workload, why string) {
	spec := doc.get("spec")
	if key := spec.unknown("podSelector", "port", "proxyProtocol", "accessPolicy"); key != "" {
		return nil, "spec." + key + " is not read"
	}
	labels, why := selector(spec.get("podSelector"))
	if why == "" && spec.get("podSelector") == nil {
		why = "there is none"
	}
	if why != "" {
		return nil, "podSelector: " + why
	}
	targets = b.inventory.selected(namespaceOf(doc), labels)
	return each(targets), b.inventory.halved(targets)
}

// linkerdServer is what a Server allows by itself.
func (b *book) linkerdServer(doc *node, taken servicePorts) {
	o := origin{at: doc.at(), object: "Server " + nameOf(doc), services: names(b.inventory.selected(namespaceOf(doc), nil))}
	targets, why := b.serverTargets(doc)
	if why != "" {
		b.refuse(o, "%s", why)
		return
	}
	if len(targets) == 0 {
		b.keep(o, "it selects no workload of the inventory, so nothing of ours: if it should, list the workload")
		return
	}
	o.services = names(targets)
	for _, w := range targets {
		port, why := b.inventory.port(doc.get("spec", "port"), w.Service)
		if why != "" {
			b.refuse(o, "%s", why)
			return
		}
		if other := taken[w.Service][port]; other != "" {
			b.refuse(o, "port %d of %s has a Server already, %s, and of two Linkerd takes the older: leave one out", port, w.Service, other)
			return
		}
		if taken[w.Service] == nil {
			taken[w.Service] = make(map[int]string)
		}
		taken[w.Service][port] = nameOf(doc)
	}
	access := doc.get("spec", "accessPolicy")
	o = o.part(access, "accessPolicy "+access.text())
	if o.at == "" {
		o.at = doc.at()
	}
	var from []string
	switch access.text() {
	case "", "deny":
		b.note(o, "denies by default, as everything here")
		return
	case "all-authenticated":
		from = []string{b.inventory.account("*", "*")}
	case "all-unauthenticated":
		b.note(o, "callers without an identity are let in by Linkerd; here nobody is: give them one")
		from = []string{"any"}
	default:
		b.refuse(o, "accessPolicy %s has no counterpart here", access.text())
		return
	}
	for _, w := range targets {
		b.linkerdGrant(o, doc, w, from, nil)
	}
}

// linkerdGrant is a rule for a Server's port on one service.
func (b *book) linkerdGrant(o origin, server *node, w Workload, from []string, conditions []string) {
	port, why := b.inventory.port(server.get("spec", "port"), w.Service)
	if why != "" {
		return // refused with its Server
	}
	action := "tcp " + strconv.Itoa(port)
	if w.Protocol != policy.TCP {
		action = everything(w.Protocol)
		conditions = append([]string{"request.port == " + strconv.Itoa(port)}, conditions...)
	}
	_, name, _ := strings.Cut(o.object, "/")
	b.add(o, policy.Rule{Name: name + "-" + w.Service, From: from, To: w.Service, Allow: []string{action}, When: allOf(conditions)})
}

func (b *book) linkerdPolicy(doc *node, all linkerdDocs) {
	namespace, spec := namespaceOf(doc), doc.get("spec")
	o := origin{at: doc.at(), object: "AuthorizationPolicy " + nameOf(doc), services: names(b.inventory.selected(namespace, nil))}
	if key := spec.unknown("targetRef", "requiredAuthenticationRefs"); key != "" {
		b.refuse(o, "spec.%s is not read", key)
		return
	}
	servers, why := linkerdTarget(spec.get("targetRef"), namespace, all)
	if why != "" {
		b.refuse(o, "targetRef: %s", why)
		return
	}
	refs := spec.get("requiredAuthenticationRefs")
	if refs == nil || refs.y.Kind != yaml.SequenceNode {
		b.refuse(o, "requiredAuthenticationRefs is no list")
		return
	}
	who, why := b.linkerdWho(refs.list(), namespace, all)
	if why != "" {
		b.refuse(o, "%s", why)
		return
	}
	if who.identities == 0 {
		b.note(o, "callers without an identity are let in by Linkerd; here nobody is: give them one")
	}
	for _, server := range servers {
		targets, why := b.serverTargets(server)
		if why != "" {
			continue // refused with its Server
		}
		o.services = names(targets)
		for _, w := range targets {
			b.linkerdGrant(o, server, w, who.from, who.conditions)
		}
	}
}

// linkerdTarget is the Servers that a policy of a namespace is for.
func linkerdTarget(ref *node, namespace string, all linkerdDocs) (servers []*node, why string) {
	kind, why := linkerdRef(ref, "group", "kind", "name")
	name := ref.get("name").text()
	switch {
	case why != "":
		return nil, why
	case kind == "Server":
		server := all.servers[namespace+"/"+name]
		if server == nil {
			return nil, fmt.Sprintf("its Server %s is not among the files", name)
		}
		return []*node{server}, ""
	case kind == "Namespace" && name != namespace:
		return nil, fmt.Sprintf("it is of namespace %s and names namespace %q: a policy is for its own", namespace, name)
	case kind == "Namespace":
		for _, key := range sorted(all.servers) {
			if namespaceOf(all.servers[key]) == namespace {
				servers = append(servers, all.servers[key])
			}
		}
		return servers, ""
	}
	return nil, fmt.Sprintf("of kind %s: write rules with paths for what it matches", kind)
}

// linkerdRef is the kind of a reference. Linkerd takes the name of a kind in
// another group, or in none, for another kind.
func linkerdRef(ref *node, keys ...string) (kind, why string) {
	if key := ref.unknown(keys...); key != "" {
		return "", key + " of a reference is not read"
	}
	kind = ref.get("kind").text()
	want := linkerdGroup
	switch kind {
	case "ServiceAccount", "Namespace":
		want = "core"
	case "Server", "MeshTLSAuthentication", "NetworkAuthentication":
	default:
		return kind, ""
	}
	group := ref.get("group").text()
	if group == "" {
		group = "core"
	}
	if group != want {
		return "", fmt.Sprintf("%s of group %s: Linkerd reads it in group %s alone", kind, group, want)
	}
	return kind, ""
}
