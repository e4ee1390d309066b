package registry

import (
	"slices"
	"strings"
)

// Reach says which nodes could mint the IDs of one shape: what a stolen agent
// of one of these classes could claim, at most.
type Reach struct {
	Pattern string   // the path, with the class filled in where the rule says so
	Rules   []string // the identity rules that give it
	Classes []string // the node classes whose nodes can mint it
	PerNode bool     // each ID names its node, so one node alone can mint it
}

// Nodes is how many nodes can mint one ID of the shape, by the number of nodes
// in each class.
func (r Reach) Nodes(perClass map[string]int) int {
	total := 0
	for _, class := range r.Classes {
		total += perClass[class]
	}
	if r.PerNode {
		return min(total, 1)
	}
	return total
}

// Reach lists every shape of ID the rules can give and who can mint it, sorted
// by pattern. A rule with {node.class} in its ID gives one shape per class.
func (ids *Identities) Reach() []Reach {
	byPattern := map[string]*Reach{}
	for _, r := range ids.rules {
		classes := r.rule.Nodes
		if len(classes) == 0 {
			classes = ids.classes
		}
		for _, class := range classes {
			pattern := r.template.pattern(class)
			reach, ok := byPattern[pattern]
			if !ok {
				reach = &Reach{Pattern: pattern, PerNode: slices.Contains(r.template.attributes(), nameAttr)}
				byPattern[pattern] = reach
			}
			if !slices.Contains(reach.Rules, r.rule.Name) {
				reach.Rules = append(reach.Rules, r.rule.Name)
			}
			if !slices.Contains(reach.Classes, class) {
				reach.Classes = append(reach.Classes, class)
			}
		}
	}
	out := make([]Reach, 0, len(byPattern))
	for _, reach := range byPattern {
		slices.Sort(reach.Rules)
		slices.Sort(reach.Classes)
		out = append(out, *reach)
	}
	slices.SortFunc(out, func(a, b Reach) int { return strings.Compare(a.Pattern, b.Pattern) })
	return out
}

// pattern is the template with its class known and all else left as written.
func (t *template) pattern(class string) string {
	var b strings.Builder
	for _, s := range t.segments {
		b.WriteByte('/')
		for _, p := range s {
			switch {
			case p.attr == "":
				b.WriteString(p.literal)
			case p.attr == classAttr:
				b.WriteString(p.filtered(class))
			default:
				b.WriteString(p.text())
			}
		}
	}
	return b.String()
}

// text is the slot as it is written.
func (p part) text() string {
	var b strings.Builder
	b.WriteString("{" + p.attr)
	for _, f := range p.filters {
		b.WriteString("|" + f.name)
		if f.arg != "" {
			b.WriteString("(" + f.arg + ")")
		}
	}
	b.WriteByte('}')
	return b.String()
}
