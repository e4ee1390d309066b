package registry

import (
	"slices"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// NodeRuleFromPB reads a node rule off the wire; CompileNodes judges it.
func NodeRuleFromPB(p *pb.NodeRule) NodeRule {
	return NodeRule{Name: p.GetName(), Require: p.GetRequire(), Owner: p.GetOwner()}
}

// PB is the rule on the wire.
func (r NodeRule) PB() *pb.NodeRule {
	return &pb.NodeRule{Name: r.Name, Require: r.Require, Owner: r.Owner}
}

// IdentityRuleFromPB reads an identity rule off the wire; CompileIdentities
// judges it. Only a TTL that is no duration is an error here.
func IdentityRuleFromPB(p *pb.IdentityRule) (IdentityRule, error) {
	rule := IdentityRule{
		Name: p.GetName(), Nodes: slices.Clone(p.GetNodes()), ID: p.GetId(), Require: p.GetRequire(),
		Default: p.GetDefault(), Hint: p.GetHint(), Owner: p.GetOwner(),
	}
	if p.GetTtl() != nil {
		if err := p.GetTtl().CheckValid(); err != nil {
			return IdentityRule{}, fault.Invalidf("identities.%s.ttl: %w", rule.Name, err)
		}
		rule.TTL = p.GetTtl().AsDuration()
	}
	return rule, nil
}

// PB is the rule on the wire.
func (r IdentityRule) PB() *pb.IdentityRule {
	p := &pb.IdentityRule{
		Name: r.Name, Nodes: slices.Clone(r.Nodes), Id: r.ID, Require: r.Require,
		Default: r.Default, Hint: r.Hint, Owner: r.Owner,
	}
	if r.TTL != 0 {
		p.Ttl = durationpb.New(r.TTL)
	}
	return p
}
