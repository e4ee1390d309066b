package adopt

import (
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/policy"
)

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
		case group == "policy.linkerd.io" && kind == "Server":
			all.servers[nameOf(doc)] = doc
		case group == "policy.linkerd.io" && kind == "AuthorizationPolicy":
			all.policies = append(all.policies, doc)
		case group == "policy.linkerd.io" && kind == "MeshTLSAuthentication":
			all.meshTLS[nameOf(doc)] = doc
		case group == "policy.linkerd.io" && kind == "NetworkAuthentication":
			all.networks[nameOf(doc)] = doc
		case group == "policy.linkerd.io":
			b.refuse(o, "kind %s is not read", kind)
		case kind == "HTTPRoute" || kind == "GRPCRoute":
			b.refuse(o, "routes change which authorizations hold by their precedence: write rules with paths for what they match")
		default:
			b.note(o, "not a policy of Linkerd: passed over")
		}
	}
	for _, name := range sorted(all.servers) {
		b.linkerdServer(all.servers[name])
	}
	for _, doc := range all.policies {
		b.linkerdPolicy(doc, all)
	}
}

// serverTargets is what a Server selects, and on which port.
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
	return targets, b.inventory.halved(targets)
}

// serverPort is the number of a Server's port on one workload.
func serverPort(doc *node, w Workload) (int, string) {
	port := doc.get("spec", "port")
	if n, ok := port.number(); ok && n > 0 && n < 1<<16 {
		return n, ""
	}
	if n := w.Ports[port.text()]; n > 0 {
		return n, ""
	}
	return 0, fmt.Sprintf("port %q of %s: say its number in the inventory, ports: {%s: 8080}", port.text(), w.Service, port.text())
}

// linkerdServer is what a Server allows by itself.
func (b *book) linkerdServer(doc *node) {
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
	access := doc.get("spec", "accessPolicy")
	o = o.part(access, "accessPolicy "+access.text())
	if o.at == "" {
		o.at = doc.at()
	}
	switch access.text() {
	case "", "deny":
		b.note(o, "denies by default, as everything here")
	case "all-authenticated", "all-unauthenticated":
		if access.text() == "all-unauthenticated" {
			b.note(o, "callers without an identity are let in by Linkerd; here nobody is: give them one")
		}
		for _, w := range targets {
			b.linkerdGrant(o, doc, w, []string{"any"}, nil)
		}
	default:
		b.refuse(o, "accessPolicy %s has no counterpart here", access.text())
	}
}

// linkerdGrant is a rule for a Server's port on one workload.
func (b *book) linkerdGrant(o origin, server *node, w Workload, from []string, conditions []string) {
	port, why := serverPort(server, w)
	if why != "" {
		b.refuse(o, "%s", why)
		return
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
	var servers []*node
	switch kind := spec.get("targetRef", "kind").text(); kind {
	case "Server":
		server := all.servers[namespace+"/"+spec.get("targetRef", "name").text()]
		if server == nil {
			b.refuse(o, "its Server %s is not among the files", spec.get("targetRef", "name").text())
			return
		}
		servers = append(servers, server)
	case "Namespace":
		for _, name := range sorted(all.servers) {
			if namespaceOf(all.servers[name]) == namespace {
				servers = append(servers, all.servers[name])
			}
		}
	default:
		b.refuse(o, "targetRef of kind %s: write rules with paths for what it matches", kind)
		return
	}
	refs := spec.get("requiredAuthenticationRefs")
	if refs == nil || refs.y.Kind != yaml.SequenceNode {
		b.refuse(o, "requiredAuthenticationRefs is no list")
		return
	}
	from, conditions, why := b.linkerdWho(refs.list(), namespace, all)
	if why != "" {
		b.refuse(o, "%s", why)
		return
	}
	for _, server := range servers {
		targets, why := b.serverTargets(server)
		if why != "" {
			continue // refused with its Server
		}
		o.services = names(targets)
		for _, w := range targets {
			b.linkerdGrant(o, server, w, from, conditions)
		}
	}
}

// linkerdWho reads the authentications that must all hold; none is everybody.
func (b *book) linkerdWho(refs []*node, namespace string, all linkerdDocs) (from, conditions []string, why string) {
	from = []string{"any"}
	identities := 0
	for _, ref := range refs {
		if ref.get("kind").text() != "NetworkAuthentication" {
			if identities++; identities > 1 {
				return nil, nil, "two authentications by identity, of which Linkerd takes one: write the identities that are in both"
			}
		}
		ns := namespace
		if text := ref.get("namespace").text(); text != "" {
			ns = text
		}
		name := ref.get("name").text()
		switch kind := ref.get("kind").text(); kind {
		case "ServiceAccount":
			from = []string{b.inventory.account(ns, name)}
		case "MeshTLSAuthentication":
			doc := all.meshTLS[ns+"/"+name]
			if doc == nil {
				return nil, nil, fmt.Sprintf("its MeshTLSAuthentication %s is not among the files", name)
			}
			if from, why = b.linkerdIdentities(doc, ns); why != "" {
				return nil, nil, why
			}
		case "NetworkAuthentication":
			doc := all.networks[ns+"/"+name]
			if doc == nil {
				return nil, nil, fmt.Sprintf("its NetworkAuthentication %s is not among the files", name)
			}
			condition, why := networks(doc.get("spec", "networks").list())
			if why != "" {
				return nil, nil, why
			}
			conditions = append(conditions, condition)
		default:
			return nil, nil, fmt.Sprintf("authentication of kind %s is not read", kind)
		}
	}
	return from, conditions, ""
}

// linkerdIdentities reads identities and references to accounts.
func (b *book) linkerdIdentities(doc *node, namespace string) (from []string, why string) {
	spec := doc.get("spec")
	if key := spec.unknown("identities", "identityRefs"); key != "" {
		return nil, "spec." + key + " of a MeshTLSAuthentication is not read"
	}
	for _, id := range spec.get("identities").texts() {
		if id == "*" {
			return []string{"any"}, ""
		}
		account, rest, _ := strings.Cut(id, ".")
		ns, tail, ok := strings.Cut(rest, ".")
		if !ok || !strings.HasPrefix(tail, "serviceaccount.identity.linkerd.") || strings.Contains(rest, "*") || ns == "" {
			return nil, fmt.Sprintf("identity %q: read are ACCOUNT.NAMESPACE.serviceaccount.identity.linkerd.DOMAIN, with * for the account", id)
		}
		if !b.inventory.own(strings.TrimPrefix(tail, "serviceaccount.identity.linkerd.")) {
			return nil, fmt.Sprintf("identity %q is of a trust domain that the inventory's aliases do not name", id)
		}
		from = append(from, b.inventory.account(ns, account))
	}
	for _, ref := range spec.get("identityRefs").list() {
		ns := namespace
		if text := ref.get("namespace").text(); text != "" {
			ns = text
		}
		switch kind := ref.get("kind").text(); kind {
		case "ServiceAccount":
			from = append(from, b.inventory.account(ns, ref.get("name").text()))
		case "Namespace":
			from = append(from, b.inventory.account(ref.get("name").text(), "*"))
		default:
			return nil, fmt.Sprintf("identityRef of kind %s is not read", kind)
		}
	}
	if len(from) == 0 {
		return nil, "it names no identity"
	}
	return from, ""
}

// networks is the condition that a caller's address is in one of the networks.
func networks(list []*node) (string, string) {
	var out []string
	for _, n := range list {
		if key := n.unknown("cidr", "except"); key != "" {
			return "", key + " of a network is not read"
		}
		blocks, why := addressBlocks([]string{n.get("cidr").text()})
		if why != "" {
			return "", why
		}
		condition := "request.source_ip.within(" + literals(blocks) + ")"
		if except := n.get("except"); except != nil {
			blocks, why := addressBlocks(except.texts())
			if len(blocks) == 0 && why == "" {
				why = "except is no list, or an empty one"
			}
			if why != "" {
				return "", why
			}
			condition += " && " + not("request.source_ip.within("+literals(blocks)+")")
		}
		out = append(out, condition)
	}
	if len(out) == 0 {
		return "", "it names no network"
	}
	return anyOf(out), ""
}
