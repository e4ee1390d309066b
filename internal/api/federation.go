package api

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// Federations shows how the exchange of bundles with other trust domains goes;
// the relationships themselves are applied state.
type Federations interface {
	// ListFederations shows the relationship with a trust domain, or all for "".
	ListFederations(ctx context.Context, trustDomain string) ([]*pb.FederationInfo, error)
	// RefreshFederation fetches the bundle now. That it could not be fetched is in
	// the answer and no error.
	RefreshFederation(ctx context.Context, trustDomain string) (*pb.FederationInfo, error)
	// ShowBundle is the bundle of a trust domain, the own one for "".
	ShowBundle(ctx context.Context, trustDomain string) (*pb.ShowBundleResponse, error)
}

// registerAdmin puts everything that operators are served on a gRPC server.
func registerAdmin(s grpc.ServiceRegistrar, o Operator, admins Admins, f Federations) {
	pb.RegisterAdminServer(s, &admin{o: o, admins: admins})
	pb.RegisterFederationAdminServer(s, &federationAdmin{f: f})
}

type federationAdmin struct {
	pb.UnimplementedFederationAdminServer
	f Federations
}

func checkName(trustDomain string) error {
	if len(trustDomain) > 255 {
		return fault.Invalidf("trust domain: at most 255 bytes")
	}
	return nil
}

// ListFederations shows relationships and how fetching goes.
func (a *federationAdmin) ListFederations(ctx context.Context, req *pb.ListFederationsRequest) (*pb.ListFederationsResponse, error) {
	if err := checkName(req.GetTrustDomain()); err != nil {
		return nil, err
	}
	list, err := a.f.ListFederations(ctx, req.GetTrustDomain())
	return &pb.ListFederationsResponse{Federations: list}, err
}

// RefreshFederation fetches a bundle now.
func (a *federationAdmin) RefreshFederation(ctx context.Context, req *pb.RefreshFederationRequest) (*pb.FederationInfo, error) {
	if err := checkName(req.GetTrustDomain()); err != nil {
		return nil, err
	}
	return a.f.RefreshFederation(ctx, req.GetTrustDomain())
}

// ShowBundle shows a bundle document.
func (a *federationAdmin) ShowBundle(ctx context.Context, req *pb.ShowBundleRequest) (*pb.ShowBundleResponse, error) {
	if err := checkName(req.GetTrustDomain()); err != nil {
		return nil, err
	}
	return a.f.ShowBundle(ctx, req.GetTrustDomain())
}
