package config

import "github.com/kith-id/kith/internal/pb"

// federation is a relationship with another trust domain.
type federation struct {
	At position `yaml:"-"`
	// TrustDomain is whose SVIDs are accepted.
	TrustDomain string `yaml:"trust_domain"`
	// URL is its bundle endpoint.
	URL string `yaml:"url,omitempty"`
	// Profile is how the endpoint is known: https_web by a certificate of the web,
	// https_spiffe by an SVID.
	Profile profile `yaml:"profile,omitempty"`
	// EndpointID is whom an SVID of the endpoint must name.
	EndpointID string `yaml:"endpoint_id,omitempty"`
	// Bundle is what to begin with: a bundle document as it is, JSON.
	Bundle string `yaml:"bundle,omitempty"`
}

func (f federation) object(owner string) *pb.Object {
	return &pb.Object{Kind: &pb.Object_Federation{Federation: &pb.Federation{
		TrustDomain: f.TrustDomain, Url: f.URL, Profile: string(f.Profile), EndpointId: f.EndpointID,
		Bundle: []byte(f.Bundle), Owner: owner,
	}}}
}

func federationOf(f *pb.Federation) federation {
	return federation{
		TrustDomain: f.GetTrustDomain(), URL: f.GetUrl(), Profile: profile(f.GetProfile()),
		EndpointID: f.GetEndpointId(), Bundle: string(f.GetBundle()),
	}
}
