package config

import "github.com/kith-id/kith/internal/pb"

// federation is a relationship with another trust domain.
type federation struct {
	At          position `yaml:"-"`
	TrustDomain string   `yaml:"trust_domain"`
	URL         string   `yaml:"url,omitempty"`
	Profile     string   `yaml:"profile,omitempty"`
	EndpointID  string   `yaml:"endpoint_id,omitempty"`
	Bundle      string   `yaml:"bundle,omitempty"` // a bundle document as it is, JSON
}

func (f federation) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Federation{Federation: &pb.Federation{
		TrustDomain: f.TrustDomain, Url: f.URL, Profile: f.Profile, EndpointId: f.EndpointID,
		Bundle: []byte(f.Bundle), Owner: owner,
	}}}
}

func federationOf(f *pb.Federation) federation {
	return federation{
		TrustDomain: f.GetTrustDomain(), URL: f.GetUrl(), Profile: f.GetProfile(),
		EndpointID: f.GetEndpointId(), Bundle: string(f.GetBundle()),
	}
}
