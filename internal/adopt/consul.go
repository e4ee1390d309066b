package adopt

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/policy"
)

// wildcard is Consul's name for every service.
const wildcard = "*"

// intention is one source of a ServiceIntentions object.
type intention struct {
	origin
	destination, source string
	allow               bool
	permissions         []*node // nil: action alone
}

// consul adopts ServiceIntentions. Consul lets the most exact intention decide
// (destination before source); a rule of ours has no order, so each caller that
// is named gets what the first intention for it says.
func (b *book) consul(docs []*node) {
	var all []intention
	for _, doc := range docs {
		o := origin{at: doc.at(), object: doc.get("kind").text() + " " + doc.get("metadata", "name").text()}
		if doc.get("kind").text() != "ServiceIntentions" {
			b.note(o, "no ServiceIntentions: passed over")
			continue
		}
		all = append(all, b.intentions(doc, o)...)
	}
	b.consulTwice(all)
	done := make(map[string]bool)
	for _, w := range b.inventory.Workloads {
		if !done[w.Service] {
			b.consulService(w, all)
		}
		done[w.Service] = true
	}
}

// consulTwice refuses what Consul does not hold: two intentions for one source and
// destination. Whichever came first would decide.
func (b *book) consulTwice(all []intention) {
	seen := make(map[[2]string]string)
	for _, in := range all {
		key := [2]string{in.source, in.destination}
		if at, twice := seen[key]; twice {
			b.refuse(in.origin, "%s to %s a second time, after %s", in.source, in.destination, at)
			continue
		}
		seen[key] = in.at
	}
}

// intentions reads one object.
func (b *book) intentions(doc *node, o origin) (out []intention) {
	spec := doc.get("spec")
	destination := spec.get("destination", "name").text()
	o.services = []string{destination}
	if destination == wildcard {
		o.services = names(b.inventory.Workloads)
	}
	if key := spec.unknown("destination", "sources"); key != "" {
		b.refuse(o, "spec.%s is not read", key)
		return nil
	}
	if key := foreignPlace(spec.get("destination")); key != "" {
		b.refuse(o, "destination.%s has no counterpart here", key)
		return nil
	}
	if destination != wildcard && !b.known(destination) {
		b.keep(o, "destination %s is not in the inventory: list it, or leave the object out", destination)
		return nil
	}
	if list := spec.get("sources"); list != nil && list.y.Kind != yaml.SequenceNode {
		b.refuse(o, "sources is no list")
		return nil
	}
	for i, s := range spec.get("sources").list() {
		part := o.part(s, fmt.Sprintf("sources[%d] %s", i, s.get("name").text()))
		if key := s.unknown("name", "action", "permissions", "description", "namespace", "partition"); key != "" {
			b.refuse(part, "%s has no counterpart here", key)
			continue
		}
		if key := foreignPlace(s); key != "" {
			b.refuse(part, "%s has no counterpart here", key)
			continue
		}
		in := intention{origin: part, destination: destination, source: s.get("name").text(), permissions: s.get("permissions").list()}
		action := s.get("action").text()
		switch {
		case in.source != wildcard && !b.known(in.source):
			b.refuse(part, "source %s is not in the inventory: list it", in.source)
			continue
		case s.get("permissions") != nil && (len(in.permissions) == 0 || action != ""):
			b.refuse(part, "permissions are a list, with something in it and no action beside it")
			continue
		case len(in.permissions) == 0 && action != "allow" && action != "deny":
			b.refuse(part, "action %q: allow or deny", action)
			continue
		}
		in.allow = action == "allow"
		out = append(out, in)
	}
	return out
}

// foreignPlace is the first field that names a place other than the only one
// there is here.
func foreignPlace(n *node) string {
	for _, key := range []string{"namespace", "partition", "peer", "samenessGroup"} {
		if v := n.get(key).text(); v != "" && v != "default" {
			return key
		}
	}
	return ""
}

func (b *book) known(service string) bool {
	return slices.ContainsFunc(b.inventory.Workloads, func(w Workload) bool { return w.Service == service })
}

// consulService writes the rules of one service.
func (b *book) consulService(w Workload, all []intention) {
	first := func(destination, source string) *intention {
		for i := range all {
			if all[i].destination == destination && all[i].source == source {
				return &all[i]
			}
		}
		return nil
	}
	// decides is the intention that decides for a caller, most exact first.
	decides := func(source string) *intention {
		for _, destination := range []string{w.Service, wildcard} {
			for _, s := range []string{source, wildcard} {
				if in := first(destination, s); in != nil {
					return in
				}
			}
		}
		return nil
	}
	others := decides(wildcard)
	if others == nil {
		others = &intention{origin: origin{object: "Consul's default", source: b.inventory.Default, services: []string{w.Service}}, allow: b.inventory.Default == "allow"}
	}
	othersMay, ok := b.consulAllows(w, others)
	if !ok {
		return
	}
	if othersMay != "" {
		b.consulRule(w, others, policy.Rule{From: []string{"any"}, Allow: []string{everything(w.Protocol)}, When: unless(othersMay)})
	}
	seen := make(map[string]bool)
	for _, in := range all {
		if in.source == wildcard || seen[in.source] || in.destination != w.Service && in.destination != wildcard {
			continue
		}
		seen[in.source] = true
		mine := decides(in.source)
		if mine == others || mine.source == wildcard {
			continue
		}
		b.consulCaller(w, mine, othersMay)
	}
}

// always is the condition that needs none.
const always = "always"

func unless(condition string) string {
	if condition == always {
		return ""
	}
	return condition
}

// consulCaller writes what one named caller may. Where everybody else may more,
// the caller is denied what is not its own.
func (b *book) consulCaller(w Workload, in *intention, othersMay string) {
	may, ok := b.consulAllows(w, in)
	if !ok {
		return
	}
	from := []string{in.source}
	if may != "" {
		b.consulRule(w, in, policy.Rule{From: from, Allow: []string{everything(w.Protocol)}, When: unless(may)})
	}
	if othersMay == "" || may == always {
		if may == "" {
			b.note(in.origin, "on %s: denied, which is the default here", w.Service)
		}
		return
	}
	deny := policy.Rule{From: from, Deny: []string{everything(w.Protocol)}}
	if may != "" {
		deny.When = not(may)
	}
	b.consulRule(w, in, deny)
}

func (b *book) consulRule(w Workload, in *intention, r policy.Rule) {
	source := in.source
	if source == wildcard || source == "" {
		source = "others"
	}
	r.Name, r.To = source+"-to-"+w.Service, w.Service
	b.add(in.origin, r)
}

// consulAllows is the condition under which an intention allows: always, or
// empty for never. Permissions are looked at from the top, and the first that
// matches decides; what none matches is Consul's default.
func (b *book) consulAllows(w Workload, in *intention) (string, bool) {
	o := in.origin
	o.services = []string{w.Service}
	if len(in.permissions) == 0 {
		if in.allow {
			return always, true
		}
		return "", true
	}
	if w.Protocol == policy.TCP {
		b.note(o, "on %s: permissions on a TCP service deny in Consul", w.Service)
		return "", true
	}
	var earlier, allowed []string
	for i, p := range in.permissions {
		part := o.part(p, fmt.Sprintf("%s.permissions[%d]", in.origin.source, i))
		condition, why := permission(p)
		if why != "" {
			b.refuse(part, "%s", why)
			return "", false
		}
		if p.get("action").text() == "allow" {
			allowed = append(allowed, allOf(append([]string{condition}, negations(earlier)...)))
		}
		earlier = append(earlier, condition)
	}
	if b.inventory.Default == "allow" {
		allowed = append(allowed, allOf(negations(earlier)))
	}
	if len(allowed) == 0 {
		return "", true
	}
	return anyOf(allowed), true
}

func negations(conditions []string) []string {
	out := make([]string, 0, len(conditions))
	for _, c := range conditions {
		out = append(out, not(c))
	}
	return out
}

// permission is the condition of one permission.
func permission(p *node) (string, string) {
	if key := p.unknown("action", "http"); key != "" {
		return "", key + " has no counterpart here"
	}
	if action := p.get("action").text(); action != "allow" && action != "deny" {
		return "", fmt.Sprintf("action %q: allow or deny", action)
	}
	http := p.get("http")
	if key := http.unknown("pathExact", "pathPrefix", "pathRegex", "methods", "header"); key != "" {
		return "", "http." + key + " is not read"
	}
	if http != nil && http.y.Kind != yaml.MappingNode {
		return "", "http is no mapping"
	}
	if key := http.wordless("pathExact", "pathPrefix", "pathRegex"); key != "" {
		return "", "http." + key + " is no text, or an empty one"
	}
	if list := http.get("header"); list != nil && len(list.list()) == 0 {
		return "", "http.header is no list, or an empty one"
	}
	var out []string
	if v := http.get("pathExact"); v != nil {
		out = append(out, "request.path == "+literal(v.text()))
	}
	if v := http.get("pathPrefix"); v != nil {
		out = append(out, "request.path.startsWith("+literal(v.text())+")")
	}
	if v := http.get("pathRegex"); v != nil {
		out = append(out, "request.path.matches("+literal("^(?:"+v.text()+")$")+")")
	}
	if v := http.get("methods"); v != nil {
		if texts := v.texts(); len(texts) == 0 || slices.Contains(texts, "") {
			return "", "http.methods is no list, or an empty one"
		}
		out = append(out, "request.method in "+literals(v.texts()))
	}
	for _, h := range http.get("header").list() {
		condition, why := headerMatch(h)
		if why != "" {
			return "", why
		}
		out = append(out, condition)
	}
	if len(out) == 0 {
		return `request.method != ""`, ""
	}
	return allOf(out), ""
}

func headerMatch(h *node) (string, string) {
	if key := h.unknown("name", "present", "exact", "prefix", "suffix", "contains", "regex", "invert"); key != "" {
		return "", "header." + key + " is not read"
	}
	if name := h.get("name").text(); name == "" || name[0] == ':' || strings.EqualFold(name, "host") {
		return "", fmt.Sprintf("header %q: a path or methods say what it would, or nothing here does", name)
	}
	if len(h.keys()) < 2 || h.get("present") != nil && h.get("present").text() != "true" {
		return "", "a header says nothing of its value, and not present: true"
	}
	if key := h.wordless("exact", "prefix", "suffix", "contains", "regex"); key != "" {
		return "", "header." + key + " is no text, or an empty one"
	}
	if invert := h.get("invert"); invert != nil && invert.text() != "true" && invert.text() != "false" {
		return "", fmt.Sprintf("header.invert %q: say true or false", invert.text())
	}
	subject := "request.headers[" + literal(strings.ToLower(h.get("name").text())) + "]"
	condition := "present(" + subject + ")"
	for _, form := range []struct{ key, format string }{
		{"exact", "%s == %s"}, {"prefix", "%s.startsWith(%s)"}, {"suffix", "%s.endsWith(%s)"}, {"contains", "%s.contains(%s)"},
	} {
		if v := h.get(form.key); v != nil {
			condition += " && " + fmt.Sprintf(form.format, subject, literal(v.text()))
		}
	}
	if v := h.get("regex"); v != nil {
		condition += " && " + subject + ".matches(" + literal("^(?:"+v.text()+")$") + ")"
	}
	if h.get("invert").text() == "true" {
		return not(condition), ""
	}
	return condition, ""
}
