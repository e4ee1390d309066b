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

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// networkPolicies adopts the ingress part of Kubernetes NetworkPolicy: who may
// connect to which port.
func (b *book) networkPolicies(docs []*node) {
	selected := make(map[string]bool)
	for _, doc := range docs {
		kind := doc.get("kind").text()
		group, _, _ := strings.Cut(doc.get("apiVersion").text(), "/")
		o := origin{at: doc.at(), object: kind + " " + nameOf(doc), services: names(b.inventory.selected(namespaceOf(doc), nil))}
		switch {
		case kind == "NetworkPolicy" && (group == "networking.k8s.io" || group == ""):
			if !b.twice(o) {
				b.networkPolicy(doc, o, selected)
			}
		case strings.HasSuffix(kind, "NetworkPolicy"):
			o.services = names(b.inventory.Workloads)
			b.refuse(o, "of %s: it may deny what a NetworkPolicy of Kubernetes allows, and is not read", doc.get("apiVersion").text())
		default:
			b.note(o, "not a NetworkPolicy: passed over")
		}
	}
	for _, service := range names(b.inventory.Workloads) {
		if !selected[service] {
			b.note(origin{object: "service " + service}, "no policy in these files selects it: Kubernetes lets everybody in, here nothing is allowed until a rule says so")
		}
	}
}

// networkPolicy adopts one policy, and notes whom it selects. The origin speaks for
// the whole namespace until it is known whom.
func (b *book) networkPolicy(doc *node, o origin, selected map[string]bool) {
	spec := doc.get("spec")
	labels, why := selector(spec.get("podSelector"))
	targets := b.inventory.selected(namespaceOf(doc), labels)
	if why == "" {
		why = b.inventory.halved(targets)
	}
	if why != "" {
		why = "podSelector: " + why
	}
	if key := spec.unknown("podSelector", "policyTypes", "ingress", "egress"); key != "" {
		why = key + " beside podSelector is not read"
	}
	types := spec.get("policyTypes")
	for _, t := range types.texts() {
		if t != "Ingress" && t != "Egress" {
			why = fmt.Sprintf("policyTypes: %q is neither Ingress nor Egress", t)
		}
	}
	for _, key := range []string{"policyTypes", "ingress", "egress"} {
		if list := spec.get(key); list != nil && list.y.Kind != yaml.SequenceNode {
			why = key + " is no list"
		}
	}
	if why != "" {
		b.refuse(o, "%s", why)
		return
	}
	if len(targets) == 0 {
		b.keep(o, "it selects no workload of the inventory")
		return
	}
	o.services = names(targets)
	if spec.get("egress") != nil || slices.Contains(types.texts(), "Egress") {
		b.keep(o.part(spec.get("egress"), "egress"), "what a workload may connect to outside is not decided here: keep this part as a NetworkPolicy")
	}
	if len(types.list()) > 0 && !slices.Contains(types.texts(), "Ingress") {
		return
	}
	for _, name := range o.services {
		selected[name] = true
	}
	rules := spec.get("ingress").list()
	if len(rules) == 0 {
		b.note(o, "lets nobody in, which is the default here")
	}
	for i, r := range rules {
		b.ingress(o.part(r, fmt.Sprintf("ingress[%d]", i)), doc, r, each(targets))
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
	if r.y.Kind != yaml.MappingNode {
		b.refuse(o, "it is no mapping: everybody is {}")
		return
	}
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
		actions, conditions, why := b.portsOf(r.get("ports").list(), w)
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
func (b *book) portsOf(list []*node, w Workload) (actions, conditions []string, why string) {
	all := len(list) == 0
	var ranges []string
	for _, p := range list {
		low, high, why := b.portRange(p, w.Service)
		switch {
		case why != "":
			return nil, nil, "ports: " + why
		case high == 0: // of another transport
		case high == maxPort && low == 1:
			all = true
		case low != high && w.Protocol == policy.TCP:
			return nil, nil, "endPort on a TCP service: list the ports"
		case low != high:
			ranges = append(ranges, fmt.Sprintf("request.port >= %d && request.port <= %d", low, high))
		case w.Protocol == policy.TCP:
			actions = append(actions, "tcp "+strconv.Itoa(low))
		default:
			ranges = append(ranges, fmt.Sprintf("request.port == %d", low))
		}
	}
	switch {
	case all:
		return []string{everything(w.Protocol)}, nil, ""
	case len(ranges) > 0:
		return []string{everything(w.Protocol)}, []string{anyOf(ranges)}, ""
	}
	return actions, nil, ""
}

const maxPort = 1<<16 - 1

// portRange is one entry of ports, from low to high; 0 where it is of another
// transport than TCP, which cannot reach a service of ours.
func (b *book) portRange(p *node, service string) (low, high int, why string) {
	if p.y.Kind != yaml.MappingNode {
		return 0, 0, "an entry is no mapping"
	}
	if key := p.unknown("protocol", "port", "endPort"); key != "" {
		return 0, 0, key + " is not read"
	}
	port, end := p.get("port"), p.get("endPort")
	low, number := port.number()
	high, more := end.number()
	if end != nil && (!number || !more || high < low || high > maxPort) {
		return 0, 0, fmt.Sprintf("endPort %q is no number from a numbered port on", end.text())
	}
	switch protocol := p.get("protocol"); {
	case protocol.text() == "UDP" || protocol.text() == "SCTP":
		return 0, 0, ""
	case protocol != nil && protocol.text() != "TCP":
		return 0, 0, fmt.Sprintf("protocol %q is none of TCP, UDP and SCTP", protocol.text())
	case port == nil:
		return 1, maxPort, ""
	}
	if low, why = b.inventory.port(port, service); end == nil {
		high = low
	}
	return low, high, why
}
