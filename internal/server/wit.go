package server

import (
	"context"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
)

// SignWITs evaluates the rules again with what the server knows of the node and
// signs what they give, as SignWorkloads does.
func (s *Server) SignWITs(ctx context.Context, node api.Caller, reqs []api.CSR) ([]api.SignedWIT, error) {
	if !s.cfg.WIT {
		return nil, fault.Hint(fault.Deniedf("WIT-SVIDs are not issued here"), "features: {wit: true} in the server's kith.yaml")
	}
	out := make([]api.SignedWIT, len(reqs))
	grants, revision, err := s.entitleAll(node, len(reqs), func(i int) api.CSR { return reqs[i] }, func(i int, err error) { out[i].Err = err })
	if err != nil || len(grants) == 0 {
		return out, err
	}
	batch := make([]ca.WITRequest, len(grants))
	for j, g := range grants {
		batch[j] = ca.WITRequest{
			ID: g.match.ID, PublicKey: reqs[g.place].Key, TTL: g.match.TTL,
			Requester: node.ID.String(), Rule: g.match.Rule, Revision: revision,
		}
	}
	for j, result := range s.ca.SignWITs(ctx, batch) {
		if out[grants[j].place].Err = result.Err; result.Err == nil {
			out[grants[j].place].Token = result.SVID.Token()
		}
	}
	return out, nil
}
