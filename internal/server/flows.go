package server

import (
	"context"
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

const (
	maxFlowsTold = 10_000 // in one response
	maxFlips     = 1000   // told of one replay
)

// Flows is what the enforcement points counted, merged over all live nodes, the
// most frequent first.
func (s *Server) Flows(ctx context.Context, req *pb.FlowsRequest) (*pb.FlowsResponse, error) {
	if to := req.GetTo(); to != "" {
		if _, ok := s.snap().policy.Service(to); !ok {
			return nil, s.snap().unknownService(to)
		}
	}
	flows, g, err := s.flows(ctx, req.GetTo())
	if err != nil {
		return nil, err
	}
	out := &pb.FlowsResponse{Nodes: uint32(g.asked), Answered: uint32(g.asked - len(g.pending)), Uncounted: g.uncounted}
	for _, f := range flows[:min(len(flows), maxFlowsTold)] {
		out.Flows = append(out.Flows, f.PB())
	}
	return out, nil
}

// flows asks the agents and merges what they say.
func (s *Server) flows(ctx context.Context, to string) ([]policy.Flow, *gather, error) {
	g, err := s.hub.askFlows(ctx, to)
	if err != nil {
		return nil, nil, err
	}
	type key struct {
		from, to, method, template, rule, reason, effect, protocol string
		port                                                       uint32
	}
	merged := make(map[key]*policy.Flow)
	for _, m := range g.flows {
		f, err := policy.FlowFromPB(m)
		if err != nil {
			g.uncounted += m.GetCount() // a node that says what it should not
			continue
		}
		at := key{m.GetFrom(), m.GetTo(), m.GetMethod(), m.GetTemplate(), m.GetRule(), m.GetReason(), m.GetEffect(), m.GetProtocol(), m.GetPort()}
		if there := merged[at]; there != nil {
			there.Add(f)
			continue
		}
		merged[at] = &f
	}
	out := make([]policy.Flow, 0, len(merged))
	for _, f := range merged {
		out = append(out, *f)
	}
	policy.SortFlows(out)
	return out, g, nil
}

// replay asks the policy as it would be about the flows on record; nil if the
// plan cannot change a decision.
func (s *Server) replay(ctx context.Context, p plan) (*pb.Replay, error) {
	touched := p.touched()
	if touched == nil {
		return nil, nil
	}
	flows, g, err := s.flows(ctx, "")
	if err != nil {
		return nil, err
	}
	out := &pb.Replay{Nodes: uint32(g.asked), Answered: uint32(g.asked - len(g.pending))}
	byService := make(map[string][]policy.Flow)
	for _, f := range flows {
		if touched(f.To) {
			byService[f.To] = append(byService[f.To], f)
			out.Flows++
			out.Requests += f.Count
		}
	}
	for _, service := range slices.Sorted(maps.Keys(byService)) {
		before, after := tableOf(p.base.policy, service), tableOf(p.after, service)
		for _, flip := range policy.Replay(before, after, p.sameCondition, byService[service]) {
			if len(out.Flips) < maxFlips {
				out.Flips = append(out.Flips, &pb.Flip{
					Flow: flip.Flow.PB(), Effect: flip.After.Effect.String(), Rule: flip.After.Rule,
					Reason: flip.After.Reason.String(), Sample: flip.Sample.Path, Unsure: flip.Unsure,
				})
			}
		}
	}
	return out, nil
}

// sameCondition is true for a rule whose condition the plan leaves as it is.
func (p plan) sameCondition(rule string) bool {
	before, _ := p.base.policy.Rule(rule)
	after, _ := p.after.Rule(rule)
	return before.When == after.When
}

// tableOf is nil, which denies, where there is no such service or its rules
// cannot be enforced.
func tableOf(book *policy.Book, service string) *policy.Table {
	table, err := book.Compile(service)
	if err != nil {
		return nil
	}
	return table
}

// touched tells the services whose decisions the plan may change; nil for none.
func (p plan) touched() func(service string) bool {
	names, all := make(map[string]bool), false
	rule := func(r *pb.Rule) {
		if r == nil {
			return
		}
		if (policy.Rule{To: r.GetTo()}).ToOne() {
			names[r.GetTo()] = true
		} else {
			all = true
		}
	}
	for _, e := range p.edits {
		switch e.key.kind {
		case registry.KindRule:
			rule(e.before.GetRule())
			rule(e.after.GetRule())
		case registry.KindService:
			// Its identities may be the source of any rule, and the target of
			// those that name no service.
			all = true
		}
	}
	if !all && len(names) == 0 {
		return nil
	}
	return func(service string) bool { return all || names[service] }
}
