package usertoken

import (
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// FromPB reads a provider off the wire; Validate judges it. A field of a newer
// schema is refused: a provider that is not fully understood must not be trusted
// in part.
func FromPB(m *pb.Provider) (Provider, error) {
	if m == nil {
		return Provider{}, fault.Invalidf("provider is missing")
	}
	if len(m.ProtoReflect().GetUnknown()) > 0 {
		return Provider{}, fault.Hint(fault.Invalidf("provider %q: has fields of a newer schema", clip(m.GetName())), "upgrade kith here")
	}
	return Provider{
		Name: m.GetName(), Issuer: m.GetIssuer(), Audiences: m.GetAudiences(), URL: m.GetJwksUrl(), Keys: m.GetJwks(),
		Algorithms: m.GetAlgorithms(), Locations: m.GetLocations(), Services: m.GetServices(), Bound: m.GetBound(), Owner: m.GetOwner(),
	}, nil
}

// PB is the provider on the wire.
func (p Provider) PB() *pb.Provider {
	return &pb.Provider{
		Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, JwksUrl: p.URL, Jwks: p.Keys,
		Algorithms: p.Algorithms, Locations: p.Locations, Services: p.Services, Bound: p.Bound, Owner: p.Owner,
	}
}
