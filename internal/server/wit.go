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
	if err := s.freshEnough(staleAll); err != nil {
		return nil, err
	}
	snap := s.snap()
	m, ok := snap.members[node.Name]
	if !ok {
		return nil, snap.member(node.Name)
	}
	out := make([]api.SignedWIT, len(reqs))
	var batch []ca.WITRequest
	var places []int
	for i, r := range reqs {
		match, err := s.entitle(snap, m.node, r)
		if err != nil {
			out[i].Err = err
			continue
		}
		batch = append(batch, ca.WITRequest{
			ID: match.ID, PublicKey: r.Key, TTL: match.TTL,
			Requester: node.ID.String(), Rule: match.Rule, Revision: snap.revision,
		})
		places = append(places, i)
	}
	if len(batch) == 0 {
		return out, nil
	}
	for j, result := range s.ca.SignWITs(ctx, batch) {
		if out[places[j]].Err = result.Err; result.Err == nil {
			out[places[j]].Token = result.SVID.Token()
		}
	}
	return out, nil
}
