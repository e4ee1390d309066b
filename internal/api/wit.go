package api

import (
	"context"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// SignedWIT answers one CSR for a WIT-SVID: a token or an error.
type SignedWIT struct {
	Token string
	Err   error
}

// SignWIT reads each request by itself, as SignWorkloads does: a WIT-SVID is bound
// to a key as a certificate is.
func (n *node) SignWIT(ctx context.Context, req *pb.SignWITRequest) (*pb.SignWITResponse, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.GetCsrs()) > maxBatch {
		return nil, fault.Invalidf("%d requests in one batch, at most %d are signed", len(req.GetCsrs()), maxBatch)
	}
	reqs := make([]CSR, len(req.GetCsrs()))
	for i, c := range req.GetCsrs() {
		reqs[i] = readCSR(c)
	}
	signed, err := n.p.cfg.Fleet.SignWITs(ctx, caller, reqs)
	if err != nil {
		return nil, err
	}
	resp := &pb.SignWITResponse{Results: make([]*pb.SignedWIT, len(signed))}
	for i, s := range signed {
		resp.Results[i] = &pb.SignedWIT{Token: s.Token}
		if s.Err != nil {
			text, kind := n.refusal(s.Err)
			resp.Results[i] = &pb.SignedWIT{Error: text, ErrorKind: kind}
		}
	}
	return resp, nil
}
