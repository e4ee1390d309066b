package config

import "github.com/kith-id/kith/internal/pb"

// team is some operators' part of the services.
type team struct {
	At           position `yaml:"-"`
	Name         string   `yaml:"name"`
	Identities   []string `yaml:"identities,omitempty,flow"`
	TrustDomains []string `yaml:"trust_domains,omitempty,flow"`
	Platform     bool     `yaml:"platform,omitempty"`
}

func (t team) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Team{Team: &pb.Team{
		Name: t.Name, Identities: t.Identities, TrustDomains: t.TrustDomains, Platform: t.Platform, Owner: owner,
	}}}
}

func teamOf(t *pb.Team) team {
	return team{Name: t.GetName(), Identities: t.GetIdentities(), TrustDomains: t.GetTrustDomains(), Platform: t.GetPlatform()}
}
