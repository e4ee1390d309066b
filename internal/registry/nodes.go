package registry

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// Evidence is what a verifier established about a node that wants to join.
type Evidence struct {
	Attestor   string     // which method: join_token, node_key
	Name       string     // unique name of the node
	Class      string     // class the evidence is bound to; empty: the node rules decide
	KeyHash    [32]byte   // SHA-256 of the node key's SPKI, proven in the exchange
	Attributes Attributes // further node.* facts
}

// NodeAttributes is every node.* fact of the evidence, name and attestor
// included. A class is not: the node rules have yet to name it.
func (e Evidence) NodeAttributes() Attributes {
	attrs := Combine(e.Attributes, nil)
	delete(attrs, classAttr)
	attrs[nameAttr] = e.Name
	attrs[attestorAttr] = e.Attestor
	return attrs
}

// Nodes is a compiled set of node rules, immutable and safe for concurrent use.
type Nodes struct{ rules []*compiledNode } // sorted by name

// CompileNodes compiles node rules, or returns all their faults.
func CompileNodes(rules []NodeRule) (*Nodes, error) {
	c, err := newCompiler()
	if err != nil {
		return nil, err
	}
	var f faults
	n := &Nodes{}
	seen := map[string]bool{}
	for _, rule := range rules {
		if seen[rule.Name] {
			f.add("nodes."+rule.Name, fault.Invalidf("two node rules of this name"))
		}
		seen[rule.Name] = true
		if compiled := c.node(rule, &f); compiled != nil {
			n.rules = append(n.rules, compiled)
		}
	}
	if err := fault.Wrap(fault.Invalid, errors.Join(f.all...)); err != nil {
		return nil, err
	}
	slices.SortFunc(n.rules, func(a, b *compiledNode) int { return strings.Compare(a.rule.Name, b.rule.Name) })
	return n, nil
}

// Classes is the name of every node rule, sorted.
func (n *Nodes) Classes() []string {
	names := make([]string, len(n.rules))
	for i, r := range n.rules {
		names[i] = r.rule.Name
	}
	return names
}

// Admit finds the class of a node by its node.* attributes: the name of the one
// node rule that matches. When none matches, or several do, the class is empty
// and the node is not admitted.
func (n *Nodes) Admit(attrs Attributes) (class string, outcomes []Outcome) {
	matched := 0
	for _, r := range n.rules {
		o := r.evaluate(attrs)
		outcomes = append(outcomes, o)
		if o.Result == Matched {
			class = r.rule.Name
			matched++
		}
	}
	if matched != 1 {
		return "", outcomes
	}
	return class, outcomes
}

// AdmitEvidence admits a node by what a verifier established. If the evidence
// is bound to a class, as a join token is, the rule of that name alone decides,
// and it must match all the same. The error of a refusal is Denied and says why.
func (n *Nodes) AdmitEvidence(e Evidence) (class string, outcomes []Outcome, err error) {
	if err := ValidateName(e.Name); err != nil {
		return "", nil, fault.Deniedf("node name: %w", err)
	}
	attrs := e.NodeAttributes()
	if err := attrs.Validate(); err != nil {
		return "", nil, fault.Deniedf("evidence: %w", err)
	}
	if e.Class == "" {
		class, outcomes = n.Admit(attrs)
		if class == "" {
			return "", outcomes, refusal(outcomes)
		}
		return class, outcomes, nil
	}
	i := slices.IndexFunc(n.rules, func(r *compiledNode) bool { return r.rule.Name == e.Class })
	if i < 0 {
		return "", nil, fault.Hint(fault.Deniedf("no node rule %s%s", e.Class, didYouMean(e.Class, n.Classes())),
			"kith apply a node rule of that name, or give another --class")
	}
	o := n.rules[i].evaluate(attrs)
	if o.Result != Matched {
		return "", []Outcome{o}, refusal([]Outcome{o})
	}
	return e.Class, []Outcome{o}, nil
}

// refusal says why no single node rule admitted.
func refusal(outcomes []Outcome) error {
	var matched, others []string
	for _, o := range outcomes {
		if o.Result == Matched {
			matched = append(matched, o.Rule)
		} else {
			others = append(others, o.String())
		}
	}
	switch {
	case len(matched) > 1:
		return fault.Hint(fault.Deniedf("node rules %s all match, so the node has no single class", strings.Join(matched, ", ")),
			"make their requirements exclude each other")
	case len(others) == 0:
		return fault.Deniedf("there are no node rules")
	default:
		return fault.Deniedf("no node rule admits it: %s", strings.Join(others, "; "))
	}
}

func (r *compiledNode) evaluate(attrs Attributes) Outcome {
	o := Outcome{Rule: r.rule.Name, Attributes: append(slices.Clone(r.require.attributes), r.require.optional...)}
	if name := missing(r.require.attributes, attrs); name != "" {
		o.Result, o.Detail = Missing, "no "+name
		return o
	}
	return decide(o, r.require, attrs, r.rule.Require)
}

// decide fills in the outcome of a requirement whose attributes are all there.
func decide(o Outcome, require *requirement, attrs Attributes, text string) Outcome {
	ok, err := require.holds(attrs)
	switch {
	case err != nil && strings.HasPrefix(err.Error(), "no such key"): // of a map: neither true nor false of this one
		o.Result, o.Detail = Unmatched, "false, "+err.Error()+": "+text
	case err != nil:
		o.Result, o.Detail = Failed, err.Error()
	case !ok:
		o.Result, o.Detail = Unmatched, "false: "+text
	default:
		o.Result = Matched
	}
	return o
}

// Scope is the whole node.* set of an admitted node: its facts and its class.
func Scope(facts Attributes, class string) Attributes {
	attrs := maps.Clone(Combine(facts, nil))
	if attrs == nil {
		attrs = Attributes{}
	}
	attrs[classAttr] = class
	return attrs
}
