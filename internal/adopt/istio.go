package adopt

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/policy"
)

// istio adopts AuthorizationPolicy, PeerAuthentication and RequestAuthentication;
// the last first, as conditions of the first read the tokens it speaks of.
func (b *book) istio(docs []*node) {
	allowed, selected := make(map[string]bool), make(map[string]origin)
	var rest []*node
	for _, doc := range docs {
		if doc.get("kind").text() != "RequestAuthentication" {
			rest = append(rest, doc)
			continue
		}
		if o, targets := b.istioPolicy(doc); len(targets) > 0 {
			for _, w := range targets {
				selected[w.Service] = o
			}
			b.requestAuthentication(doc, o, targets)
		}
	}
	b.badTokens(selected)
	b.foreign = foreignDomains(b.inventory, rest)
	for _, doc := range rest {
		o, targets := b.istioPolicy(doc)
		if len(targets) == 0 {
			continue
		}
		switch doc.get("kind").text() {
		case "AuthorizationPolicy":
			b.authorizationPolicy(doc, o, targets, allowed, selected)
		case "PeerAuthentication":
			b.peerAuthentication(doc, o)
		default:
			b.refuse(o, "kind %s is not read", doc.get("kind").text())
		}
	}
	b.istioDefaults(allowed, selected)
}

// istioPolicy is where a document comes from and the workloads it selects; none
// where nothing is to be made of it, which has been said then.
func (b *book) istioPolicy(doc *node) (origin, []Workload) {
	o := origin{at: doc.at(), object: doc.get("kind").text() + " " + nameOf(doc)}
	group, _, _ := strings.Cut(doc.get("apiVersion").text(), "/")
	if group != "security.istio.io" {
		b.note(o, "not a policy of Istio: passed over")
		return o, nil
	}
	targets, err := b.istioTargets(doc)
	o.services = names(targets)
	if err != "" {
		if len(o.services) == 0 {
			o.services = names(b.inventory.Workloads)
		}
		b.refuse(o, "%s", err)
		return o, nil
	}
	if of := namespaceOf(doc); of != b.inventory.rootNamespace() {
		o.services = names(b.inventory.selected(of, nil))
	} else {
		o.services = names(b.inventory.Workloads)
	}
	if b.twice(o) {
		return o, nil
	}
	if o.services = names(targets); len(targets) == 0 {
		b.keep(o, "it selects no workload of the inventory, so nothing of ours: if it should, list the workload")
	}
	return o, targets
}

// nameOf is an object's namespace and name.
func nameOf(doc *node) string {
	name := doc.get("metadata", "name").text()
	if ns := doc.get("metadata", "namespace").text(); ns != "" {
		return ns + "/" + name
	}
	return "default/" + name
}

func namespaceOf(doc *node) string {
	if ns := doc.get("metadata", "namespace").text(); ns != "" {
		return ns
	}
	return "default"
}

// istioTargets is the workloads a policy selects; the text says why it cannot
// be known.
func (b *book) istioTargets(doc *node) ([]Workload, string) {
	spec := doc.get("spec")
	if spec.get("targetRefs") != nil || spec.get("targetRef") != nil {
		return nil, "targetRefs select gateways and waypoints, which have no counterpart here"
	}
	labels, why := selector(spec.get("selector"))
	if why != "" {
		return nil, "selector: " + why
	}
	namespace := namespaceOf(doc)
	if namespace == b.inventory.rootNamespace() {
		namespace = ""
	}
	targets := b.inventory.selected(namespace, labels)
	return targets, b.inventory.halved(targets)
}

// istioDefaults adds what Istio does by default and we do not: a workload that
// no ALLOW policy selects lets everybody in.
func (b *book) istioDefaults(allowed map[string]bool, selected map[string]origin) {
	for _, w := range b.inventory.Workloads {
		o, ok := selected[w.Service]
		if !ok {
			b.note(origin{object: "service " + w.Service}, "no policy in these files selects it: nothing is adopted, and here nothing is allowed until a rule says so")
			continue
		}
		if allowed[w.Service] {
			continue
		}
		allowed[w.Service] = true
		o.source = "no ALLOW policy selects it: Istio lets everybody in"
		b.add(o, policy.Rule{Name: w.Service + "-by-default", From: []string{"any"}, To: w.Service, Allow: []string{everything(w.Protocol)}})
	}
}

// everything is the action that covers all a service can be asked.
func everything(p policy.Protocol) string {
	if p == policy.TCP {
		return "tcp"
	}
	return "* /{**}"
}

func (b *book) authorizationPolicy(doc *node, o origin, targets []Workload, allowed map[string]bool, selected map[string]origin) {
	spec := doc.get("spec")
	if key := spec.unknown("selector", "action", "provider", "rules"); key != "" {
		b.refuse(o.part(spec.get(key), key), "spec.%s is not read", key)
		return
	}
	action := spec.get("action").text()
	switch action {
	case "", "ALLOW":
		action = "ALLOW"
	case "DENY":
	case "AUDIT":
		b.note(o, "AUDIT decides nothing: every denial is recorded here, and allows by sample")
		return
	default:
		b.refuse(o, "action %s asks somebody else: say it with external: of the service", action)
		return
	}
	mode := policy.Enforce
	switch dry := doc.get("metadata", "annotations", "istio.io/dry-run"); dry.text() {
	case "true":
		mode = policy.Shadow
	case "", "false":
	default:
		b.refuse(o.part(dry, "istio.io/dry-run"), "dry-run %q: say true or false", dry.text())
		return
	}
	for _, w := range targets {
		if selected[w.Service] = o; action == "ALLOW" && mode == policy.Enforce {
			allowed[w.Service] = true
		}
	}
	rules := spec.get("rules").list()
	if spec.get("rules") != nil && spec.get("rules").y.Kind != yaml.SequenceNode {
		b.refuse(o.part(spec.get("rules"), "rules"), "rules is no list")
		return
	}
	if len(rules) == 0 {
		b.note(o, "no rules: it allows nothing, which is the default here")
		return
	}
	for i, r := range rules {
		b.istioRule(istioPart{b: b, deny: action == "DENY", mode: mode, name: doc.get("metadata", "name").text(), index: i}, o.part(r, ""), r, targets)
	}
}

// istioPart is one rule of a policy on its way to become rules of ours.
type istioPart struct {
	b     *book
	deny  bool
	mode  policy.Mode
	name  string
	index int
}

func (b *book) istioRule(p istioPart, o origin, r *node, targets []Workload) {
	o.source = fmt.Sprintf("rules[%d]", p.index)
	if r.y.Kind != yaml.MappingNode {
		b.refuse(o, "it is no mapping: a rule for everything is {}")
		return
	}
	if key := r.unknown("from", "to", "when"); key != "" {
		b.refuse(o, "%s is not read", key)
		return
	}
	sources, why := r.entries("from", "source")
	operations, alsoWhy := r.entries("to", "operation")
	if why += alsoWhy; why != "" {
		b.refuse(o, "%s", why)
		return
	}
	if len(sources) == 0 {
		sources = []*node{nil}
	}
	if len(operations) == 0 {
		operations = []*node{nil}
	}
	conditions, tokens, why := b.istioWhen(r)
	if why != "" {
		b.refuse(o, "%s", why)
		return
	}
	for si, s := range sources {
		who, why := b.istioSource(s.get("source"), p.deny)
		if why != "" {
			b.refuse(o.part(s, fmt.Sprintf("rules[%d].from[%d]", p.index, si)), "%s", why)
			continue
		}
		if who.nobody {
			b.note(o.part(s, fmt.Sprintf("rules[%d].from[%d]", p.index, si)), "%s", who.why)
			continue
		}
		for ti, op := range operations {
			part := o.part(op, fmt.Sprintf("rules[%d].from[%d].to[%d]", p.index, si, ti))
			if part.at == "" {
				part.at = o.at
			}
			for _, w := range targets {
				b.istioGrant(p, part, w, who, op.get("operation"), conditions, tokens)
			}
		}
	}
}

// istioGrant makes the rule of one source, one operation and one service.
func (b *book) istioGrant(p istioPart, o origin, w Workload, who sourcePart, op *node, conditions []string, tokens []tokenPart) {
	what, why := istioOperation(op, w.Protocol, p.deny)
	if why != "" {
		b.refuse(o, "on %s: %s", w.Service, why)
		return
	}
	tokens = append(slices.Clone(who.tokens), tokens...)
	if w.Protocol == policy.TCP && (len(tokens) > 0 || onlyHTTP(conditions)) {
		if p.deny {
			b.refuse(o, "on %s: headers or tokens of a DENY on a TCP service: Istio's sidecar denies every connection, its ztunnel none; say which is meant", w.Service)
			return
		}
		what.never = true
	}
	if what.never {
		b.note(o, "on %s: HTTP fields never match TCP in Istio, so this allows nothing", w.Service)
		return
	}
	read, why := b.tokenConditions(w.Service, tokens, p.deny)
	if why != "" {
		b.refuse(o, "on %s: %s", w.Service, why)
		return
	}
	rule := policy.Rule{
		Name: fmt.Sprintf("%s-%d-%s", p.name, p.index, w.Service), From: who.from, To: w.Service, Except: who.except,
		Mode: p.mode, When: allOf(slices.Concat(who.conditions, what.conditions, conditions, read)),
	}
	if p.deny {
		rule.Deny = what.actions
	} else {
		rule.Allow = what.actions
	}
	b.add(o, rule)
}

func (b *book) peerAuthentication(doc *node, o origin) {
	modes := []string{doc.get("spec", "mtls", "mode").text()}
	ports := doc.get("spec", "portLevelMtls")
	for _, port := range ports.keys() {
		modes = append(modes, ports.get(port, "mode").text())
	}
	for _, mode := range modes {
		switch mode {
		case "STRICT", "", "UNSET":
		default:
			b.refuse(o, "mode %s lets callers in without an identity; every listener here wants mutual TLS. Give those callers an identity first, then leave this policy out", mode)
			return
		}
	}
	b.note(o, "mutual TLS is always required here: nothing to write")
}
