package server

import (
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// permit asks for each edit whether it is the actor's to make: of those that
// prune and declare bring nobody knew before. All that is not is told at once.
func (p plan) permit(by api.Actor) error {
	if faults := p.forbidden(by); len(faults) > 0 {
		return joined(faults)
	}
	return nil
}

// refused is what permit would say, for people who only ask.
func (p plan) refused(by api.Actor) []string {
	var out []string
	for _, err := range p.forbidden(by) {
		text := err.Error()
		if hint := fault.HintOf(err); hint != "" {
			text += "; " + hint
		}
		out = append(out, text)
	}
	return out
}

// maxRefused bounds what one answer says about edits that are not the actor's.
const maxRefused = 20

func (p plan) forbidden(by api.Actor) (faults []error) {
	if len(p.edits) == 0 || by.Role >= registry.RoleAdmin {
		return nil // an admin's is everything
	}
	writer := by.Writer()
	var rules []string
	rulesOnly := true
	for _, e := range p.edits {
		if rulesOnly = rulesOnly && e.key.kind == registry.KindRule; rulesOnly {
			rules = append(rules, e.key.name)
		}
	}
	before, after := p.after.Sides(p.base.policy, rulesOnly, rules...)
	for _, e := range p.edits {
		err := by.Require(api.RoleToChange(e.key.kind), "to "+e.verb+" "+e.key.String())
		switch {
		case err != nil:
		case e.key.kind == registry.KindService:
			err = writer.MayChangeService(before, after, e.key.name)
		case e.key.kind == registry.KindRule:
			err = writer.MayChangeRule(before, after, e.key.name)
		}
		if err != nil {
			faults = append(faults, err)
		}
		if len(faults) == maxRefused {
			break
		}
	}
	return faults
}

// teamless refuses to delete a team that services or operators are bound to: the
// latter would otherwise wake up in whatever has the name next.
func (p *planner) teamless(key objectKey) {
	for _, name := range p.next.policy.ServiceNames() {
		if svc, _ := p.next.policy.Service(name); svc.Team == key.name {
			p.fault(fault.Hint(fault.Conflictf("%s has service %s", key, name), "kith services edit %s --team OTHER", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.snap.admins)) {
		if slices.Contains(p.snap.admins[name].admin.Teams, key.name) {
			p.fault(fault.Hint(fault.Conflictf("%s has operator %s", key, name), "kith ids admins role %s operator --team OTHER", name))
		}
	}
}

// teamsOf is which teams an admin is bound to after a change of their record:
// those named, else those there are, unless they are unbound or no operator.
func (s *snapshot) teamsOf(was registry.Admin, role registry.Role, named []string, unbind bool) ([]string, error) {
	switch {
	case len(named) > 0 && unbind:
		return nil, fault.Invalidf("bound to teams and to none at once")
	case len(named) > 0 && role != registry.RoleOperator:
		return nil, fault.Hint(fault.Invalidf("role %s is bound to no team", role), "--role operator")
	case unbind || role != registry.RoleOperator:
		return nil, nil
	case len(named) == 0:
		return was.Teams, nil
	}
	for _, name := range named {
		if _, ok := s.policy.Team(name); ok {
			continue
		}
		err := fault.NotFoundf("there is no team %q", name)
		if near := fault.Nearest(name, s.policy.TeamNames()); near != "" {
			return nil, fault.Hint(err, "did you mean %s?", near)
		}
		return nil, fault.Hint(err, "kith ids teams add %s", name)
	}
	return slices.Compact(slices.Sorted(slices.Values(named))), nil
}
