package workload

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// FetchJWTSVID gives the caller's JWT-SVIDs for an audience. Workload API 6.2.1:
// of all its identities, or of the one it names.
func (s *Service) FetchJWTSVID(ctx context.Context, req *workloadpb.JWTSVIDRequest) (*workloadpb.JWTSVIDResponse, error) {
	peer, err := PeerOf(ctx)
	if err != nil {
		return nil, err
	}
	audience := slices.Compact(slices.Sorted(slices.Values(req.GetAudience())))
	if err := registry.ValidateAudience(audience); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	ev, err := s.evaluate(ctx, peer)
	if err != nil {
		return nil, err
	}
	matches, err := matchesOf(ev, req.GetSpiffeId())
	if err != nil {
		return nil, err
	}
	held, waited := s.tokens.Fetch(ctx, ev, matches, audience)
	if ctx.Err() != nil {
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if waited {
		// The identity goes to the process that was evaluated, or to nobody.
		if err := s.host.Check(peer); err != nil {
			return nil, s.deny(peer, &Evaluation{}, err)
		}
	}
	return jwtResponse(held)
}

// matchesOf is the identity the caller names, or all of them.
func matchesOf(ev *Evaluation, name string) ([]registry.Match, error) {
	if name == "" {
		return ev.Matches, nil
	}
	id, err := spiffe.ParseID(name)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for _, match := range ev.Matches {
		if match.ID == id {
			return []registry.Match{match}, nil
		}
	}
	return nil, status.Errorf(codes.PermissionDenied, "%s is not this workload's", id)
}

// jwtResponse is every identity that has a token. If none has, the error says
// whether it is worth trying again.
func jwtResponse(held []HeldJWT) (*workloadpb.JWTSVIDResponse, error) {
	out := &workloadpb.JWTSVIDResponse{}
	given := make(hints)
	var failed error
	for _, h := range held {
		if h.SVID == nil {
			failed = worthTrying(failed, h.Err)
			continue
		}
		out.Svids = append(out.Svids, &workloadpb.JWTSVID{SpiffeId: h.SVID.ID.String(), Svid: h.SVID.Token(), Hint: given.once(h.Match.Hint)})
	}
	var tooMany errTooMany
	switch {
	case len(out.Svids) > 0:
		return out, nil
	case Refused(failed):
		return nil, errRefused()
	case errors.As(failed, &tooMany):
		return nil, status.Error(codes.Unavailable, failed.Error())
	case failed != nil:
		return nil, status.Error(codes.Unavailable, "no JWT-SVID for this audience could be signed yet: the server is away")
	default:
		return nil, status.Error(codes.Unavailable, "the server has not answered yet")
	}
}

// FetchJWTBundles sends the keys of JWT-SVIDs at once and again whenever they
// change. Workload API 6.2.2.
func (s *Service) FetchJWTBundles(_ *workloadpb.JWTBundlesRequest, stream grpc.ServerStreamingServer[workloadpb.JWTBundlesResponse]) error {
	return followTrust(s, stream, jwtBundles)
}

// jwtBundles is the keys of each trust domain and nothing else of its bundle; a
// trust domain without keys has an empty document, which trusts nobody.
func jwtBundles(trust Trust) (*workloadpb.JWTBundlesResponse, error) {
	if err := trust.ready(); err != nil {
		return nil, err
	}
	out := &workloadpb.JWTBundlesResponse{Bundles: make(map[string][]byte, len(trust.Bundles))}
	for td, bundle := range trust.Bundles {
		document, err := bundle.MarshalJWTKeys()
		if err != nil {
			return nil, status.Errorf(codes.Internal, "bundle of %s: %v", td, err)
		}
		out.Bundles[td.ID().String()] = document
	}
	return out, nil
}

// ValidateJWTSVID says whose a token is, by the bundle of its own trust domain.
// Workload API 6.2.3. The caller has an identity itself: the bundles are for
// workloads.
func (s *Service) ValidateJWTSVID(ctx context.Context, req *workloadpb.ValidateJWTSVIDRequest) (*workloadpb.ValidateJWTSVIDResponse, error) {
	peer, err := PeerOf(ctx)
	if err != nil {
		return nil, err
	}
	if req.GetAudience() == "" || req.GetSvid() == "" {
		return nil, status.Error(codes.InvalidArgument, "audience and svid must be given")
	}
	if _, err := s.evaluate(ctx, peer); err != nil {
		return nil, err
	}
	svid, err := spiffe.ValidateJWT(req.GetSvid(), checkOf([]string{req.GetAudience()}, s.host.Trust(), s.tokens.cfg.Now()))
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	claims := &structpb.Struct{}
	if err := claims.UnmarshalJSON(svid.ClaimsJSON()); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the claims hold what the answer cannot")
	}
	return &workloadpb.ValidateJWTSVIDResponse{SpiffeId: svid.ID.String(), Claims: claims}, nil
}
