package api

import (
	"context"

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
	results, err := signAll(ctx, req.GetCsrs(), readCSR, n.p.cfg.Fleet.SignWITs, func(s SignedWIT) *pb.SignedWIT {
		if s.Err != nil {
			text, kind := n.refusal(s.Err)
			return &pb.SignedWIT{Error: text, ErrorKind: kind}
		}
		return &pb.SignedWIT{Token: s.Token}
	})
	if err != nil {
		return nil, err
	}
	return &pb.SignWITResponse{Results: results}, nil
}
