package registry

import (
	"errors"
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// Set is all node and identity rules of a trust domain, by name, as they would
// be after a change.
type Set struct {
	TrustDomain   spiffe.TrustDomain
	NodeRules     map[string]NodeRule
	IdentityRules map[string]IdentityRule
}

// Validate returns every fault of the set at once, each with its path, and
// what an operator should know of a set without faults.
func (s Set) Validate() ([]Warning, error) {
	_, _, warnings, err := s.Compile()
	return warnings, err
}

// Compile validates the set and makes it ready to be asked.
func (s Set) Compile() (*Nodes, *Identities, []Warning, error) {
	var f faults
	classes := slices.Sorted(maps.Keys(s.NodeRules))
	for _, name := range classes {
		if s.NodeRules[name].Name != name {
			f.add("nodes."+name, fault.Invalidf("is named %q inside", s.NodeRules[name].Name))
		}
	}
	var identities []IdentityRule
	for _, name := range slices.Sorted(maps.Keys(s.IdentityRules)) {
		rule := s.IdentityRules[name]
		if rule.Name != name {
			f.add("identities."+name, fault.Invalidf("is named %q inside", rule.Name))
		}
		for _, class := range rule.Nodes {
			if _, ok := s.NodeRules[class]; !ok {
				f.add("identities."+name+".nodes", fault.Invalidf("no node rule %q%s", class, didYouMean(class, classes)))
			}
		}
		identities = append(identities, rule)
	}
	nodes, nodesErr := CompileNodes(slices.Collect(maps.Values(s.NodeRules)))
	ids, warnings, idsErr := CompileIdentities(s.TrustDomain, identities, classes)
	err := errors.Join(append([]error{nodesErr, idsErr}, f.all...)...)
	if err != nil {
		return nil, nil, nil, fault.Wrap(fault.Invalid, err)
	}
	return nodes, ids, warnings, nil
}

// StartingSet is what a new trust domain begins with: a class for nodes that
// come with a join token, and identities by claimed name and by systemd unit.
func StartingSet(td spiffe.TrustDomain) Set {
	vms := NodeRule{Name: "vms", Require: `node.attestor == "join_token"`, Owner: startingOwner}
	as := IdentityRule{Name: "as", ID: "/{node.class}/{workload.kith.as}", Owner: startingOwner}
	unit := IdentityRule{Name: "unit", ID: "/{node.class}/{workload.systemd.unit|trim(.service)}", Owner: startingOwner}
	return Set{
		TrustDomain:   td,
		NodeRules:     map[string]NodeRule{vms.Name: vms},
		IdentityRules: map[string]IdentityRule{as.Name: as, unit.Name: unit},
	}
}

// startingOwner owns the rules a trust domain starts with.
const startingOwner = "kith"
