package policy

import (
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxTeamIdentities = 256
	maxTeamDomains    = 64
)

// Team is some people's part of the services: what its operators may say, and
// nothing beside it.
type Team struct {
	Name string
	// Identities are the IDs that services of the team may have, as patterns:
	// /a/b, /a/*, /a/** or spiffe://other/…. Without any the team cannot add
	// services, only have some given to it.
	Identities []string
	// TrustDomains are the other trust domains whose peers its rules may let in.
	TrustDomains []string
	// Platform teams may change every service and rule, the platform's tier too.
	Platform bool
	Owner    string
}

// TeamFromPB reads a team off the wire. A field of a newer schema is refused.
func TeamFromPB(m *pb.Team) (Team, error) {
	if m == nil {
		return Team{}, fault.Invalidf("team is missing")
	}
	if err := understood(m); err != nil {
		return Team{}, fault.Invalidf("team %q: %w", clip(m.GetName()), err)
	}
	return Team{
		Name: m.GetName(), Identities: m.GetIdentities(), TrustDomains: m.GetTrustDomains(),
		Platform: m.GetPlatform(), Owner: m.GetOwner(),
	}, nil
}

// PB is the team on the wire.
func (t Team) PB() *pb.Team {
	return &pb.Team{
		Name: t.Name, Identities: t.Identities, TrustDomains: t.TrustDomains, Platform: t.Platform, Owner: t.Owner,
	}
}

// team checks what a team says of itself.
func (v *validation) team(name string, t Team) {
	at := "teams." + name
	if err := ValidateName(name); err != nil {
		v.faults.add("teams", err)
	}
	if t.Name != name {
		v.faults.add(at, fault.Invalidf("is kept under another name than its own, %q", clip(t.Name)))
	}
	v.faults.bound(at+".identities", len(t.Identities), maxTeamIdentities)
	v.faults.bound(at+".trust_domains", len(t.TrustDomains), maxTeamDomains)
	v.faults.owner(at, t.Owner)
	for i, text := range t.Identities {
		src, err := parseSource(text)
		if err == nil && src.kind != identities {
			err = fault.Hint(fault.Invalidf("%q is no ID or ID pattern", clip(text)), "as in /eks/shop/**")
		}
		if err != nil {
			v.faults.add(index(at+".identities", i), err)
		}
	}
	for i, text := range t.TrustDomains {
		if _, err := spiffe.ParseTrustDomain(text); err != nil {
			v.faults.add(index(at+".trust_domains", i), fault.Wrap(fault.Invalid, err))
		}
	}
}

// teamOf checks that a service's team is one.
func (v *validation) teamOf(svc Service) {
	if svc.Team == "" {
		return
	}
	if _, ok := v.set.Teams[svc.Team]; ok {
		return
	}
	err := fault.Invalidf("unknown team %q", clip(svc.Team))
	if near := fault.Nearest(svc.Team, v.set.teamNames()); near != "" {
		err = fault.Hint(err, "did you mean %s?", near)
	} else {
		err = fault.Hint(err, "an admin can make it: kith ids teams add %s", clip(svc.Team))
	}
	v.faults.add("services."+svc.Name+".team", err)
}

func (s Set) teamNames() []string { return slices.Sorted(maps.Keys(s.Teams)) }

// holds is true if a service of the team may have this ID.
func (t Team) holds(id spiffe.ID, own spiffe.TrustDomain) bool {
	return slices.ContainsFunc(t.Identities, func(text string) bool {
		src, err := parseSource(text)
		return err == nil && src.kind == identities && src.matches(id, own)
	})
}
