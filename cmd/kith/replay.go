package main

import (
	"fmt"

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
	for _, f := range r.GetFlips() {
		flow := f.GetFlow()
		effect := f.GetEffect()
		if f.GetUnsure() {
			effect += "?"
		}
		fmt.Fprintf(a.stdout, "  %s -> %s  %s %s on %s: %d calls, last %s, by %s\n",
			other(f.GetEffect()), effect, anonymousOr(flow.GetFrom()), visible(flowCall(flow)), flow.GetTo(),
			flow.GetCount(), a.ago(flow.GetLastUnix()), ruleOrReason(f.GetRule(), f.GetReason()))
	}
}

// other is the effect that flipped.
func other(effect string) string {
	if effect == policy.Allow.String() {
		return policy.Deny.String()
	}
	return policy.Allow.String()
}
