package registry

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// Match is one identity that a workload is to have.
type Match struct {
	Rule string
	ID   spiffe.ID
	Hint string
	TTL  time.Duration // 0: the issuer's default
	// Claimed says that the workload has it by the name it claims, and by no rule
	// that goes without.
	Claimed bool
}

// Identities is a compiled set of identity rules for one trust domain,
// immutable and safe for concurrent use.
type Identities struct {
	trustDomain spiffe.TrustDomain
	rules       []*compiledIdentity // the default ones first, then by name
	classes     []string
}

// CompileIdentities compiles identity rules for the classes that node rules
// define, or returns all their faults. The warnings are what `kith plan` tells;
// the rules are good all the same.
func CompileIdentities(td spiffe.TrustDomain, rules []IdentityRule, classes []string) (*Identities, []Warning, error) {
	c, err := newCompiler()
	if err != nil {
		return nil, nil, err
	}
	var f faults
	if td.IsZero() {
		f.add("trust_domain", fault.Invalidf("not set"))
	}
	ids := &Identities{trustDomain: td, classes: slices.Sorted(slices.Values(classes))}
	seen := map[string]bool{}
	for _, rule := range rules {
		if seen[rule.Name] {
			f.add("identities."+rule.Name, fault.Invalidf("two identity rules of this name"))
		}
		seen[rule.Name] = true
		if compiled := c.identity(rule, &f); compiled != nil {
			ids.rules = append(ids.rules, compiled)
		}
	}
	slices.SortFunc(ids.rules, func(a, b *compiledIdentity) int {
		if a.rule.Default != b.rule.Default {
			if a.rule.Default {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.rule.Name, b.rule.Name)
	})
	ids.checkDefaults(&f)
	if err := fault.Wrap(fault.Invalid, errors.Join(f.all...)); err != nil {
		return nil, nil, err
	}
	return ids, ids.plan(), nil
}

// checkDefaults refuses two default rules that one class of nodes could see:
// which identity comes first must never be a tie.
func (ids *Identities) checkDefaults(f *faults) {
	for i, a := range ids.rules {
		for _, b := range ids.rules[i+1:] {
			if !a.rule.Default || !b.rule.Default {
				continue
			}
			if shared, ok := sharedClasses(a.rule.Nodes, b.rule.Nodes); ok {
				f.add("identities."+b.rule.Name+".default", fault.Hint(
					fault.Invalidf("rule %s is the default for %s already", a.rule.Name, shared),
					"leave default: true on one of them"))
			}
		}
	}
}

// sharedClasses names what two class lists have in common; an empty list is
// every class.
func sharedClasses(a, b []string) (string, bool) {
	switch {
	case len(a) == 0 && len(b) == 0:
		return "every class", true
	case len(a) == 0:
		a = b
	case len(b) == 0:
		b = a
	}
	var shared []string
	for _, class := range a {
		if slices.Contains(b, class) {
			shared = append(shared, class)
		}
	}
	return "class " + strings.Join(shared, ", "), len(shared) > 0
}

// Evaluate finds every identity of a workload on a node of the class: all
// matching rules issue, the default one first, the others by name. An ID that
// two rules give is listed once, under the first. attrs is what Combine made;
// its node.class is the given class whatever it says. The outcomes explain
// every rule.
func (ids *Identities) Evaluate(class string, attrs Attributes) (matches []Match, outcomes []Outcome) {
	attrs = Combine(Scope(attrs, class), attrs)
	given := map[spiffe.ID]int{} // place in matches, from 1
	for _, r := range ids.rules {
		o, id := r.evaluate(ids.trustDomain, class, attrs)
		outcomes = append(outcomes, o)
		if o.Result != Matched {
			continue
		}
		claimed := slices.Contains(r.names, claimAttr)
		if place := given[id]; place > 0 {
			matches[place-1].Claimed = matches[place-1].Claimed && claimed
			continue
		}
		matches = append(matches, Match{Rule: r.rule.Name, ID: id, Hint: r.rule.Hint, TTL: r.rule.TTL, Claimed: claimed})
		given[id] = len(matches)
	}
	return matches, outcomes
}

// evaluate asks one rule. Its order is the one of the design: class, presence,
// requirement, template; a rule is never half asked.
func (r *compiledIdentity) evaluate(td spiffe.TrustDomain, class string, attrs Attributes) (Outcome, spiffe.ID) {
	o := Outcome{Rule: r.rule.Name, Attributes: slices.Clone(r.names)}
	if len(r.rule.Nodes) > 0 && !slices.Contains(r.rule.Nodes, class) {
		o.Result, o.Detail = Unmatched, "not for nodes of class "+class
		return o, spiffe.ID{}
	}
	if name := missing(r.needs, attrs); name != "" {
		o.Result, o.Detail = Missing, "no "+name
		return o, spiffe.ID{}
	}
	if o = decide(o, r.require, attrs, r.rule.Require); o.Result != Matched {
		return o, spiffe.ID{}
	}
	path, err := r.template.render(attrs)
	if err != nil {
		o.Result, o.Detail = Unmatched, err.Error()
		if fault.Is(err, fault.Denied) {
			o.Result = Failed
		}
		return o, spiffe.ID{}
	}
	id, err := spiffe.NewID(td, path)
	if err != nil {
		o.Result, o.Detail = Failed, err.Error()
		return o, spiffe.ID{}
	}
	o.ID = id.String()
	return o, id
}
