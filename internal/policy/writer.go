package policy

import (
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// Writer is who changes services and rules, and which of them are theirs. The
// zero Writer is bound to no team: every service and each rule to one of them is
// theirs, the platform's tier is not.
//
// Whatever a Writer that is bound may change one after the other, no decision of
// a service that is not its teams' turns from deny to allow.
type Writer struct {
	Platform bool     // everything is theirs
	Teams    []string // only what these own; a team that there is not owns nothing
}

// platform is true for one to whom all is open, by role or by a team that is.
func (w Writer) platform(before Set) bool {
	return w.Platform || slices.ContainsFunc(w.Teams, func(name string) bool { return before.Teams[name].Platform })
}

// owns is true if a service is one of the writer's teams.
func (w Writer) owns(svc Service) bool {
	return len(w.Teams) == 0 || svc.Team != "" && slices.Contains(w.Teams, svc.Team)
}

// MayChangeService refuses the change of a service between two sets, made by
// somebody whose it is not: nil says that it may be made. It takes for granted
// that the other edits of the same change are asked about too.
func (w Writer) MayChangeService(before, after Set, name string) error {
	if w.platform(before) {
		return nil
	}
	was, had := before.Services[name]
	is, has := after.Services[name]
	switch {
	case len(w.Teams) == 0: // all services are theirs
	case had && !w.owns(was):
		return w.foreign("service "+name, was)
	case has && is.Team == "":
		return fault.Hint(fault.Deniedf("service %s would belong to no team", name), "team: %s, or --team %s", w.Teams[0], w.Teams[0])
	case has && !w.owns(is):
		return fault.Hint(fault.Deniedf("service %s would become one of team %s, which is not yours", name, is.Team),
			"an operator of team %s can add it, or an admin", is.Team)
	}
	if err := staysGuarded(before, after, was, is); err != nil {
		return err
	}
	if err := w.mayHear(before, after, was, is); err != nil {
		return err
	}
	return w.mayBe(before, after, was, is)
}

// beyond is the IDs that are none of others.
func beyond(ids, others []spiffe.ID) []spiffe.ID {
	return slices.DeleteFunc(slices.Clone(ids), func(id spiffe.ID) bool { return slices.Contains(others, id) })
}

// mayHear refuses an audience that a service of others has: callers would prove to
// the one, at a load balancer of its choice, what could be shown to the other.
func (w Writer) mayHear(before, after Set, was, is Service) error {
	audience := is.Proof.Audience
	if audience == "" || audience == was.Proof.Audience {
		return nil
	}
	for _, set := range []Set{before, after} {
		for _, name := range set.serviceNames() {
			if other := set.Services[name]; !w.owns(other) && other.Proof.Audience == audience {
				return fault.Hint(fault.Deniedf("service %s: proofs for %q are for service %s, which is not yours", is.Name, audience, name),
					"give %s an audience of its own, or ask %s", is.Name, keeper(other))
			}
		}
	}
	return nil
}

// bothIDs are those of a service before and after.
func bothIDs(before, after Set, was, is Service) (old, ids []spiffe.ID, err error) {
	if old, err = was.IDs(before.TrustDomain); err == nil {
		ids, err = is.IDs(after.TrustDomain)
	}
	return old, ids, err
}

// staysGuarded refuses a change by which a workload could answer for a service
// that a guardrail or boundary does not bind, where it binds one by name that has
// the same ID: that would leave the platform's tier.
func staysGuarded(before, after Set, was, is Service) error {
	old, ids, err := bothIDs(before, after, was, is)
	if err != nil {
		return err
	}
	gone, added := beyond(old, ids), beyond(ids, old)
	for _, set := range []Set{before, after} {
		for name, r := range set.Rules {
			guarded, one := set.Services[r.To]
			switch {
			case !one || !r.ofPlatform():
			case r.To == was.Name && len(gone) > 0:
				return fault.Hint(fault.Deniedf("rule %s of the platform binds service %s by its name, and would not bind %s any more", name, r.To, gone[0]),
					"ask an admin; a rule to %s instead of %s binds whatever has that ID", gone[0].Path(), r.To)
			case len(added) == 0:
			case r.To != is.Name:
				if err := leavesGuard(set, r, is.Name, guarded, added); err != nil {
					return err
				}
			default: // it may be another's already that it gets
				for _, other := range set.serviceNames() {
					if err := leavesGuard(set, r, other, set.Services[other], added); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// leavesGuard refuses IDs that the service of a rule of the platform would share
// with another one, which the rule does not bind. has is the service that has them.
func leavesGuard(set Set, r Rule, other string, has Service, ids []spiffe.ID) error {
	theirs, err := has.IDs(set.TrustDomain)
	if err != nil || other == r.To {
		return err
	}
	for _, id := range ids {
		if slices.Contains(theirs, id) {
			return fault.Hint(fault.Deniedf("%s would be service %s and service %s, which rule %s of the platform binds by its name: it would not bind %s", id, other, r.To, r.Name, other),
				"give %s an ID of its own, or ask an admin for a rule to %s instead", other, id.Path())
		}
	}
	return nil
}

// mayBe refuses identities that are not the team's to give, and a change of what
// others' rules mean by the service's name.
func (w Writer) mayBe(before, after Set, was, is Service) error {
	old, ids, err := bothIDs(before, after, was, is)
	if err != nil {
		return err
	}
	added := beyond(ids, old)
	for _, id := range added {
		if len(w.Teams) == 0 {
			break // every ID is theirs to give
		}
		if err := w.mayHave(before, after, is, id); err != nil {
			return err
		}
	}
	if was.Name == "" || len(added) == 0 && len(old) == len(ids) {
		return nil
	}
	if by, keeper := w.namedBy(before, was.Name); by != "" {
		return fault.Hint(fault.Deniedf("%s names service %s, and its identities decide whom that lets in there", by, was.Name),
			"ask %s to change the identities", keeper)
	}
	return nil
}

// mayHave refuses an ID that a team may not give its services.
func (w Writer) mayHave(before, after Set, svc Service, id spiffe.ID) error {
	team := before.Teams[svc.Team]
	if !team.holds(id, after.TrustDomain) {
		return fault.Hint(fault.Deniedf("service %s: %s is no ID of team %s, whose are: %s", svc.Name, id, svc.Team, orNone(team.Identities)),
			"an admin can widen that: kith ids teams edit %s --identity %s", svc.Team, id.Path())
	}
	for _, set := range []Set{before, after} {
		for _, name := range set.serviceNames() {
			other := set.Services[name]
			if w.owns(other) {
				continue
			}
			ids, err := other.IDs(set.TrustDomain)
			if err != nil {
				return err
			}
			if slices.Contains(ids, id) {
				return fault.Hint(fault.Deniedf("service %s: %s is service %s, which is not yours", svc.Name, id, name),
					"give %s an ID of its own, or ask %s", svc.Name, keeper(other))
			}
		}
	}
	return nil
}

// namedBy is what beyond the writer's own services takes a service's name for
// its identities, and who may change it, in words.
func (w Writer) namedBy(set Set, service string) (what, ask string) {
	for _, r := range sortedRules(set.Rules) {
		svc := set.Services[r.To]
		if w.owns(svc) && !r.ofPlatform() || !slices.Contains(r.From, service) && !slices.Contains(r.Except, service) {
			continue
		}
		if r.ofPlatform() {
			return "rule " + r.Name + " of the platform", "an admin"
		}
		return "rule " + r.Name, keeper(svc) + ", or an admin,"
	}
	for _, name := range set.serviceNames() {
		if svc := set.Services[name]; !w.owns(svc) && slices.Contains(svc.Forwarded.By, service) {
			return "service " + name, keeper(svc) + ", or an admin,"
		}
	}
	return "", ""
}

// MayChangeRule is MayChangeService for a rule.
func (w Writer) MayChangeRule(before, after Set, name string) error {
	if w.platform(before) {
		return nil
	}
	for _, set := range []Set{before, after} {
		r, ok := set.Rules[name]
		if !ok {
			continue
		}
		switch svc, known := set.Services[r.To]; {
		case r.Guardrail:
			return fault.Hint(fault.Deniedf("rule %s is a guardrail, which is the platform's", name), "without guardrail: true it is a rule of the service's own; or ask an admin")
		case len(r.Boundary) > 0:
			return fault.Hint(fault.Deniedf("rule %s is a boundary, which is the platform's", name), "ask an admin, or an operator of a team with platform: true")
		case !r.ToOne():
			return fault.Hint(fault.Deniedf("rule %s is to %s: a rule to more than one service is the platform's", name, r.To), "write a rule to each service by its name, or ask an admin")
		case !known:
			return fault.Deniedf("rule %s is to %s, which is no service", name, clip(r.To))
		case !w.owns(svc):
			return w.foreign("rule "+name+" to "+svc.Name, svc)
		}
	}
	if r, ok := after.Rules[name]; ok && len(w.Teams) > 0 {
		return w.mayLetIn(before, after, r)
	}
	return nil
}

// mayLetIn refuses peers of trust domains that the service's team was not given.
func (w Writer) mayLetIn(before, after Set, r Rule) error {
	team := before.Teams[after.Services[r.To].Team]
	let := slices.Clone(r.Except)
	if len(r.Allow) > 0 {
		let = append(let, r.From...)
	}
	for _, text := range let {
		for _, td := range after.domainsOf(text) {
			if td == after.TrustDomain || slices.Contains(team.TrustDomains, td.String()) {
				continue
			}
			return fault.Hint(fault.Deniedf("rule %s lets in peers of trust domain %s, which team %s was not given", r.Name, td, team.Name),
				"an admin can: kith ids teams edit %s --trust-domain %s", team.Name, td)
		}
	}
	return nil
}

// domainsOf are the trust domains that a source names peers of; any stands for
// the own one where it lets in.
func (s Set) domainsOf(text string) (domains []spiffe.TrustDomain) {
	src, err := parseSource(text)
	if err != nil {
		return nil // no rule could have it
	}
	switch src.kind {
	case identities:
		if !src.td.IsZero() {
			domains = append(domains, src.td)
		}
	case named:
		ids, _ := s.Services[text].IDs(s.TrustDomain) // what cannot be read has been refused
		for _, id := range ids {
			domains = append(domains, id.TrustDomain())
		}
	}
	return domains
}

// foreign says whose an object is, and what its writer can do about it.
func (w Writer) foreign(what string, svc Service) error {
	if svc.Team == "" {
		return fault.Hint(fault.Deniedf("%s: service %s is no team's, and you change only what is of %s", what, svc.Name, strings.Join(w.Teams, ", ")),
			"an admin can give it to you: kith services edit %s --team %s", svc.Name, w.Teams[0])
	}
	return fault.Hint(fault.Deniedf("%s: service %s is of team %s, and you change only what is of %s", what, svc.Name, svc.Team, strings.Join(w.Teams, ", ")),
		"an operator of team %s can, or an admin", svc.Team)
}

// keeper is who can change a service, in words.
func keeper(svc Service) string {
	if svc.Team == "" {
		return "an unbound operator"
	}
	return "team " + svc.Team
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// ofPlatform is true for rules that no team writes.
func (r Rule) ofPlatform() bool { return r.Guardrail || len(r.Boundary) > 0 || !r.ToOne() }

func (s Set) serviceNames() []string {
	names := make([]string, 0, len(s.Services))
	for name := range s.Services {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func sortedRules(all map[string]Rule) []Rule {
	rules := make([]Rule, 0, len(all))
	for _, r := range all {
		rules = append(rules, r)
	}
	slices.SortFunc(rules, func(a, b Rule) int { return strings.Compare(a.Name, b.Name) })
	return rules
}
