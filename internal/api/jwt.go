package api

import (
	"context"

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
	results, err := signAll(ctx, req.GetRequests(), readJWTRequest, n.p.cfg.Fleet.SignJWTs, func(s SignedJWT) *pb.SignedJWT {
		if s.Err != nil {
			text, kind := n.refusal(s.Err)
			return &pb.SignedJWT{Error: text, ErrorKind: kind}
		}
		return &pb.SignedJWT{Token: s.Token}
	})
	if err != nil {
		return nil, err
	}
	return &pb.SignJWTResponse{Results: results}, nil
}

func readJWTRequest(r *pb.JWTRequest) JWTRequest {
	out := JWTRequest{Rule: r.GetRule(), ID: r.GetSpiffeId(), Attributes: r.GetAttributes(), Audience: r.GetAudience()}
	out.Err = checkWorkload(out.Rule, out.ID, out.Attributes)
	return out
}
