package server

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

// maxDoubts bounds the warnings one refusal lists.
const maxDoubts = 20

// doubtful refuses a change that brings a warning where the caller wants none.
func (p plan) doubtful(req *pb.ApplyRequest) error {
	if !req.GetStrict() || len(p.warnings) == 0 {
		return nil
	}
	shown := p.warnings[:min(len(p.warnings), maxDoubts)]
	return fault.Hint(fault.Invalidf("%d warnings, and none is wanted (strict):\n%s", len(p.warnings), strings.Join(shown, "\n")),
		"kith rules lint says why each is one; without --strict they do not stop the change")
}

// unused warns of a claimable service that nobody may claim.
func (p *planner) unused() []string {
	var out []string
	if p.dev {
		return nil
	}
	for _, e := range p.edits {
		if e.after == nil || e.key.kind != registry.KindService {
			continue
		}
		if service, _ := p.next.policy.Service(e.key.name); len(service.RunAs) == 0 {
			out = append(out, "services."+e.key.name+".run_as: empty, so nobody may claim the name with kith run --as")
		}
	}
	return out
}

// unprovable warns of a service that comes to want proofs which nobody can give.
func (p *planner) unprovable() []string {
	var out []string
	for _, e := range p.edits {
		if proof := e.after.GetService().GetProof(); proof != nil && !proto.Equal(proof, e.before.GetService().GetProof()) {
			out = append(out, policy.Unprovable(e.key.name).String())
		}
	}
	return out
}
