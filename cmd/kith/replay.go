package main

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// replayView is, for machines, what proposed rules would have done.
type replayView struct {
	Flips    []flipView `json:"flips"`
	Flows    uint64     `json:"flows"`
	Requests uint64     `json:"requests"`
	Nodes    uint32     `json:"nodes"`
	Answered uint32     `json:"answered"`
}

type flipView struct {
	Flow   flowView `json:"flow"`
	Effect string   `json:"effect"`
	Rule   string   `json:"rule,omitempty"`
	Reason string   `json:"reason"`
	Path   string   `json:"path,omitempty"`
	Unsure bool     `json:"unsure,omitempty"`
}

func viewReplay(r *pb.Replay) *replayView {
	if r == nil {
		return nil
	}
	v := &replayView{Flips: []flipView{}, Flows: r.GetFlows(), Requests: r.GetRequests(), Nodes: r.GetNodes(), Answered: r.GetAnswered()}
	for _, f := range r.GetFlips() {
		v.Flips = append(v.Flips, flipView{
			Flow: viewFlow(f.GetFlow()), Effect: f.GetEffect(), Rule: f.GetRule(), Reason: f.GetReason(), Path: f.GetSample(), Unsure: f.GetUnsure(),
		})
	}
	return v
}

// printReplay says which calls that were really made would be decided otherwise.
func (a *app) printReplay(r *pb.Replay) {
	if r == nil {
		return
	}
	a.incomplete(r.GetNodes(), r.GetAnswered(), 0)
	if len(r.GetFlips()) == 0 {
		fmt.Fprintf(a.stdout, "replayed %d requests in %d flows: none would be decided otherwise\n", r.GetRequests(), r.GetFlows())
		return
	}
	fmt.Fprintf(a.stdout, "replayed %d requests in %d flows; would be decided otherwise:\n", r.GetRequests(), r.GetFlows())
	for _, f := range joined(r.GetFlips()) {
		flow := f.GetFlow()
		effect := f.GetEffect()
		if f.GetUnsure() {
			effect += "?"
		}
		fmt.Fprintf(a.stdout, "  %s -> %s  %s %s on %s: %s, last %s, by %s\n",
			other(f.GetEffect()), effect, inLine(anonymousOr(flow.GetFrom())), inLine(flowCall(flow)), inLine(flow.GetTo()),
			calls(flow.GetCount()), a.ago(flow.GetLastUnix()), ruleOrReason(f.GetRule(), f.GetReason()))
	}
}

// joined are the flips with those as one that read alike: calls that different
// rules have decided so far.
func joined(flips []*pb.Flip) (out []*pb.Flip) {
	at := make(map[string]*pb.Flip)
	for _, f := range flips {
		flow := f.GetFlow()
		key := fmt.Sprintf("%q", []string{flow.GetFrom(), flow.GetTo(), flowCall(flow), f.GetEffect(), f.GetRule(), f.GetReason(), fmt.Sprint(f.GetUnsure())})
		if first := at[key]; first != nil {
			first.Flow.Count += flow.GetCount()
			first.Flow.LastUnix = max(first.Flow.LastUnix, flow.GetLastUnix())
			continue
		}
		at[key] = proto.CloneOf(f)
		out = append(out, at[key])
	}
	return out
}

// other is the effect that flipped.
func other(effect string) string {
	if effect == policy.Allow.String() {
		return policy.Deny.String()
	}
	return policy.Allow.String()
}
