package adopt

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// linkerdCallers is who is let in by authentications that must all hold.
type linkerdCallers struct {
	from, conditions     []string
	identities, networks int // authentications of either kind
}

// linkerdWho reads the authentications of a policy; none of them is everybody.
func (b *book) linkerdWho(refs []*node, namespace string, all linkerdDocs) (out linkerdCallers, why string) {
	out.from = []string{"any"}
	for _, ref := range refs {
		kind, why := linkerdRef(ref, "group", "kind", "namespace", "name")
		if why != "" {
			return out, why
		}
		ns, name := namespace, ref.get("name").text()
		if text := ref.get("namespace").text(); text != "" {
			ns = text
		}
		switch kind {
		case "ServiceAccount":
			out.identities++
			id, why := b.linkerdAccount(ns, name)
			if why != "" {
				return out, why
			}
			out.from = []string{id}
		case "MeshTLSAuthentication":
			out.identities++
			doc := all.meshTLS[ns+"/"+name]
			if doc == nil {
				return out, fmt.Sprintf("its MeshTLSAuthentication %s is not among the files", name)
			}
			if out.from, why = b.linkerdIdentities(doc, ns); why != "" {
				return out, why
			}
		case "NetworkAuthentication":
			out.networks++
			condition, why := linkerdNetworks(all.networks[ns+"/"+name], name)
			if why != "" {
				return out, why
			}
			out.conditions = append(out.conditions, condition)
		default:
			return out, fmt.Sprintf("authentication of kind %s is not read", kind)
		}
	}
	switch {
	case out.identities > 1:
		return out, "two authentications by identity, of which Linkerd takes one: write the identities that are in both"
	case out.networks > 1:
		return out, "two authentications by network, of which Linkerd takes one: write the networks that are in both"
	}
	return out, ""
}

// linkerdAccount is a service account here. A * in a name is none of Linkerd's
// wildcards, and would be one here.
func (b *book) linkerdAccount(namespace, name string) (id, why string) {
	if !dnsName(namespace) || strings.Contains(namespace, ".") || !dnsName(name) {
		return "", fmt.Sprintf("service account %q of namespace %q: not names of Kubernetes", name, namespace)
	}
	return b.inventory.account(namespace, name), ""
}

// dnsName is true for what Kubernetes takes for the name of an object.
func dnsName(text string) bool {
	for part := range strings.SplitSeq(text, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// linkerdIdentities reads identities and references to accounts.
func (b *book) linkerdIdentities(doc *node, namespace string) (from []string, why string) {
	spec := doc.get("spec")
	if key := spec.unknown("identities", "identityRefs"); key != "" {
		return nil, "spec." + key + " of a MeshTLSAuthentication is not read"
	}
	for _, key := range []string{"identities", "identityRefs"} {
		if list := spec.get(key); list != nil && list.y.Kind != yaml.SequenceNode {
			return nil, key + " is no list"
		}
	}
	for _, text := range spec.get("identities").texts() {
		id, why := b.linkerdIdentity(text)
		if why != "" {
			return nil, why
		}
		from = append(from, id)
	}
	for _, ref := range spec.get("identityRefs").list() {
		id, why := b.linkerdIdentityRef(ref, namespace)
		if why != "" {
			return nil, "identityRefs: " + why
		}
		from = append(from, id)
	}
	if len(from) == 0 {
		return nil, "it names no identity"
	}
	return from, ""
}

// linkerdIdentity is a name of the mesh. Its * is whoever has one of those names,
// which are service accounts; what has a SPIFFE ID there is named in full or not meant.
func (b *book) linkerdIdentity(text string) (id, why string) {
	if text == "*" {
		return b.inventory.account("*", "*"), ""
	}
	account, rest, _ := strings.Cut(text, ".")
	namespace, tail, _ := strings.Cut(rest, ".")
	domain, ok := strings.CutPrefix(tail, "serviceaccount.identity.linkerd.")
	if !ok || !dnsName(namespace) || account != "*" && !dnsName(account) {
		return "", fmt.Sprintf("identity %q: read are ACCOUNT.NAMESPACE.serviceaccount.identity.linkerd.DOMAIN, with * for the account", text)
	}
	if !b.inventory.own(domain) {
		return "", fmt.Sprintf("identity %q is of a trust domain that the inventory's aliases do not name", text)
	}
	return b.inventory.account(namespace, account), ""
}

func (b *book) linkerdIdentityRef(ref *node, namespace string) (id, why string) {
	kind, why := linkerdRef(ref, "group", "kind", "namespace", "name")
	name := ref.get("name").text()
	switch {
	case why != "":
		return "", why
	case kind == "ServiceAccount":
		if text := ref.get("namespace").text(); text != "" {
			namespace = text
		}
		return b.linkerdAccount(namespace, name)
	case kind != "Namespace":
		return "", fmt.Sprintf("of kind %s is not read", kind)
	case !dnsName(name) || strings.Contains(name, "."):
		return "", fmt.Sprintf("namespace %q: not a name of Kubernetes", name)
	}
	return b.inventory.account(name, "*"), ""
}

func linkerdNetworks(doc *node, name string) (condition, why string) {
	if doc == nil {
		return "", fmt.Sprintf("its NetworkAuthentication %s is not among the files", name)
	}
	if key := doc.get("spec").unknown("networks"); key != "" {
		return "", "spec." + key + " of a NetworkAuthentication is not read"
	}
	return networks(doc.get("spec", "networks").list())
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
