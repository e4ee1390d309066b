package adopt

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/policy"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// networkPolicies adopts the ingress part of Kubernetes NetworkPolicy: who may
// connect to which port.
func (b *book) networkPolicies(docs []*node) {
	selected := make(map[string]bool)
	for _, doc := range docs {
		o := origin{at: doc.at(), object: doc.get("kind").text() + " " + nameOf(doc)}
		if doc.get("kind").text() != "NetworkPolicy" {
			b.note(o, "not a NetworkPolicy: passed over")
			continue
		}
		spec := doc.get("spec")
		labels, why := selector(spec.get("podSelector"))
		if key := spec.unknown("podSelector", "policyTypes", "ingress", "egress"); key != "" {
			why = key + " beside it is not read"
		}
		targets := b.inventory.selected(namespaceOf(doc), labels)
		if why == "" {
			why = b.inventory.halved(targets)
		}
		if o.services = names(targets); why != "" {
			o.services = names(b.inventory.selected(namespaceOf(doc), nil))
			b.refuse(o, "podSelector: %s", why)
			continue
		}
		if len(targets) == 0 {
			b.keep(o, "it selects no workload of the inventory")
			continue
		}
		if spec.get("egress") != nil || slices.Contains(spec.get("policyTypes").texts(), "Egress") {
			b.keep(o.part(spec.get("egress"), "egress"), "what a workload may connect to outside is not decided here: keep this part as a NetworkPolicy")
		}
		types := spec.get("policyTypes").texts()
		if len(types) > 0 && !slices.Contains(types, "Ingress") {
			continue
		}
		for _, name := range o.services {
			selected[name] = true
		}
		rules := spec.get("ingress").list()
		if len(rules) == 0 {
			b.note(o, "lets nobody in, which is the default here")
		}
		for i, r := range rules {
			b.ingress(o.part(r, fmt.Sprintf("ingress[%d]", i)), doc, r, targets)
		}
	}
	for _, w := range b.inventory.Workloads {
		if !selected[w.Service] {
			b.note(origin{object: "service " + w.Service}, "no policy in these files selects it: Kubernetes lets everybody in, here nothing is allowed until a rule says so")
		}
	}
}

// selector reads a label selector without expressions.
func selector(n *node) (map[string]string, string) {
	if key := n.unknown("matchLabels"); key != "" {
		return nil, key + " is not read: list the labels"
	}
	for _, part := range []*node{n, n.get("matchLabels")} {
		if part != nil && part.y.Kind != yaml.MappingNode {
			return nil, "labels are no mapping"
		}
	}
	return n.get("matchLabels").dict(), ""
}

func (b *book) ingress(o origin, doc, r *node, targets []Workload) {
	if key := r.unknown("from", "ports"); key != "" {
		b.refuse(o, "%s is not read", key)
		return
	}
	for _, field := range []string{"from", "ports"} {
		if list := r.get(field); list != nil && list.y.Kind != yaml.SequenceNode {
			b.refuse(o, "%s is no list", field)
			return
		}
	}
	type peer struct{ from, conditions []string }
	var peers []peer
	for i, p := range r.get("from").list() {
		from, conditions, why := b.networkPeer(p, namespaceOf(doc))
		if why != "" {
			b.refuse(o.part(p, fmt.Sprintf("%s.from[%d]", o.source, i)), "%s", why)
			return
		}
		if len(from) == 0 {
			b.note(o.part(p, fmt.Sprintf("%s.from[%d]", o.source, i)), "selects no workload of the inventory: nobody")
			continue
		}
		peers = append(peers, peer{from, conditions})
	}
	if r.get("from") == nil || len(r.get("from").list()) == 0 {
		b.note(o, "also callers without an identity are let in by Kubernetes; here nobody is")
		peers = []peer{{from: []string{"any"}}}
	}
	for _, w := range targets {
		actions, conditions, why := portsOf(r.get("ports").list(), w)
		if why != "" {
			b.refuse(o, "on %s: %s", w.Service, why)
			continue
		}
		if len(actions) == 0 {
			b.note(o, "on %s: no TCP port", w.Service)
			continue
		}
		for _, p := range peers {
			b.add(o, policy.Rule{
				Name: doc.get("metadata", "name").text() + "-" + w.Service, From: p.from, To: w.Service, Allow: actions,
				When: allOf(append(slices.Clone(p.conditions), conditions...)),
			})
		}
	}
}

// networkPeer is who a peer of a NetworkPolicy is: workloads of the inventory,
// or anybody from an address.
func (b *book) networkPeer(p *node, namespace string) (from, conditions []string, why string) {
	if key := p.unknown("podSelector", "namespaceSelector", "ipBlock"); key != "" {
		return nil, nil, key + " is not read"
	}
	block := p.get("ipBlock")
	if (block == nil) == (p.get("podSelector") == nil && p.get("namespaceSelector") == nil) {
		return nil, nil, "a peer is either an ipBlock or selectors"
	}
	if block != nil {
		condition, why := networks([]*node{block})
		return []string{"any"}, []string{condition}, why
	}
	pods, why := selector(p.get("podSelector"))
	if why != "" {
		return nil, nil, "podSelector: " + why
	}
	if p.get("namespaceSelector") == nil {
		found := b.inventory.selected(namespace, pods)
		return names(found), nil, b.inventory.halved(found)
	}
	labels, why := selector(p.get("namespaceSelector"))
	if why != "" {
		return nil, nil, "namespaceSelector: " + why
	}
	var found []Workload
	for _, w := range b.inventory.selected("", pods) {
		own := maps.Clone(b.inventory.Namespaces[w.Namespace])
		if own == nil {
			if key := asked(labels); key != "" {
				return nil, nil, fmt.Sprintf("namespaceSelector: whether namespace %s has the label %s, the inventory does not say: namespaces: {%s: {…}}", w.Namespace, key, w.Namespace)
			}
			own = make(map[string]string)
		}
		own["kubernetes.io/metadata.name"] = w.Namespace
		if within(labels, own) {
			found = append(found, w)
		}
	}
	return names(found), nil, b.inventory.halved(found)
}

// asked is the first label that a namespace does not have by itself.
func asked(labels map[string]string) string {
	for _, key := range sorted(labels) {
		if key != "kubernetes.io/metadata.name" {
			return key
		}
	}
	return ""
}

// portsOf is the ports as actions of a TCP service, or as a condition on the
// requests of any other.
func portsOf(list []*node, w Workload) (actions, conditions []string, why string) {
	if len(list) == 0 {
		return []string{everything(w.Protocol)}, nil, ""
	}
	var ranges []string
	for _, p := range list {
		if key := p.unknown("protocol", "port", "endPort"); key != "" {
			return nil, nil, "ports: " + key + " is not read"
		}
		if protocol := p.get("protocol").text(); protocol != "" && protocol != "TCP" {
			continue // another transport cannot reach a service of ours
		}
		low, ok := p.get("port").number()
		if !ok || low <= 0 {
			if low = w.Ports[p.get("port").text()]; low == 0 && p.get("port") != nil {
				return nil, nil, fmt.Sprintf("port %q: say its number in the inventory, ports: {%s: 8080}", p.get("port").text(), p.get("port").text())
			}
		}
		high, more := p.get("endPort").number()
		switch {
		case low == 0:
			return []string{everything(w.Protocol)}, nil, ""
		case more && w.Protocol == policy.TCP:
			return nil, nil, "endPort on a TCP service: list the ports"
		case more:
			ranges = append(ranges, fmt.Sprintf("request.port >= %d && request.port <= %d", low, high))
		case w.Protocol == policy.TCP:
			actions = append(actions, "tcp "+strconv.Itoa(low))
		default:
			ranges = append(ranges, fmt.Sprintf("request.port == %d", low))
		}
	}
	if len(ranges) > 0 {
		return []string{everything(w.Protocol)}, []string{anyOf(ranges)}, ""
	}
	return actions, nil, ""
}
