package api

import (
	"context"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// JWTRequest asks for one JWT-SVID. Who asks for it proves nothing but to be
// the node: a token is bound to no key.
type JWTRequest struct {
	Rule       string
	ID         string // what the agent expects
	Attributes map[string]string
	Audience   []string
	Err        error // set when the request could not be read
}

// SignedJWT answers one JWTRequest: a token or an error.
type SignedJWT struct {
	Token string
	Err   error
}

// SignJWT reads each request by itself, as SignWorkloads does.
func (n *node) SignJWT(ctx context.Context, req *pb.SignJWTRequest) (*pb.SignJWTResponse, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.GetRequests()) > maxBatch {
		return nil, fault.Invalidf("%d requests in one batch, at most %d are signed", len(req.GetRequests()), maxBatch)
	}
	reqs := make([]JWTRequest, len(req.GetRequests()))
	for i, r := range req.GetRequests() {
		reqs[i] = JWTRequest{Rule: r.GetRule(), ID: r.GetSpiffeId(), Attributes: r.GetAttributes(), Audience: r.GetAudience()}
		reqs[i].Err = checkWorkload(reqs[i].Rule, reqs[i].ID, reqs[i].Attributes)
	}
	signed, err := n.p.cfg.Fleet.SignJWTs(ctx, caller, reqs)
	if err != nil {
		return nil, err
	}
	resp := &pb.SignJWTResponse{Results: make([]*pb.SignedJWT, len(signed))}
	for i, s := range signed {
		resp.Results[i] = &pb.SignedJWT{Token: s.Token}
		if s.Err != nil {
			text, kind := n.refusal(s.Err)
			resp.Results[i] = &pb.SignedJWT{Error: text, ErrorKind: kind}
		}
	}
	return resp, nil
}
