package config

import "github.com/kith-id/kith/internal/pb"

// team is some operators' part of the services.
type team struct {
	At position `yaml:"-"`
	// Name is what services and operators are bound to.
	Name string `yaml:"name"`
	// Identities are the IDs and patterns that its services may have.
	Identities []string `yaml:"identities,omitempty,flow"`
	// TrustDomains are others that its rules may name.
	TrustDomains []string `yaml:"trust_domains,omitempty,flow"`
	// Platform lets its operators write guardrails and boundaries too.
	Platform bool `yaml:"platform,omitempty"`
}

func (t team) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Team{Team: &pb.Team{
		Name: t.Name, Identities: t.Identities, TrustDomains: t.TrustDomains, Platform: t.Platform, Owner: owner,
	}}}
}

func teamOf(t *pb.Team) team {
	return team{Name: t.GetName(), Identities: t.GetIdentities(), TrustDomains: t.GetTrustDomains(), Platform: t.GetPlatform()}
}
