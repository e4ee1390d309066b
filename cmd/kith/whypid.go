package main

import (
	"context"
	"fmt"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/workload"
)

// whoView is an explained process for machines.
type whoView struct {
	PID     int32    `json:"pid"`
	IDs     []string `json:"spiffe_ids"`
	Rules   []string `json:"rules,omitempty"`
	Nearest string   `json:"nearest,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Found   string   `json:"found"`
}

// whyProcess says which identities a process has by which rules, or which rule
// came closest to giving it one, and what was found out about it. The agent
// tells a user of the user's own processes alone.
func (a *app) whyProcess(ctx context.Context, f format, pid int32, as string) error {
	if pid <= 0 {
		return fault.Hint(fault.Invalidf("--pid %d is no process", pid), "kith why --pid $(pidof orders)")
	}
	var reply *pb.ExplainIdentityResponse
	err := a.withAgent(ctx, func(ctx context.Context, agent pb.InspectionClient) (err error) {
		reply, err = agent.Explain(ctx, &pb.ExplainIdentityRequest{Pid: pid, As: as})
		return err
	})
	if err != nil {
		return err
	}
	v := viewProcess(pid, reply)
	if f != asTable {
		return a.print(f, table{values: v})
	}
	if len(v.IDs) == 0 {
		fmt.Fprintf(a.stdout, "process %d has no identity\n", pid)
	} else {
		fmt.Fprintf(a.stdout, "process %d has an identity\n", pid)
	}
	var pairs []string
	for i, id := range v.IDs {
		pairs = append(pairs, "  who", fmt.Sprintf("%s, by identity rule %s", id, v.Rules[i]))
	}
	nearest := ""
	if v.Nearest != "" {
		nearest = fmt.Sprintf("identity rule %s, but %s", v.Nearest, visible(v.Reason))
	} else if len(v.IDs) == 0 {
		nearest = v.Reason
	}
	return facts(a.stdout, append(pairs, "  nearest", nearest, "  found", visible(v.Found),
		"  every rule", fmt.Sprintf("kith ids explain --pid %d", pid))...)
}

func viewProcess(pid int32, reply *pb.ExplainIdentityResponse) whoView {
	v := whoView{PID: pid, IDs: []string{}, Found: workload.Found(reply.GetAttributes())}
	var outcomes []registry.Outcome
	for _, o := range reply.GetRules() {
		if o.GetOutcome() == string(registry.Matched) {
			v.IDs, v.Rules = append(v.IDs, o.GetSpiffeId()), append(v.Rules, o.GetRule())
			continue
		}
		outcomes = append(outcomes, registry.Outcome{Rule: o.GetRule(), Result: registry.Result(o.GetOutcome()), Detail: o.GetDetail()})
	}
	if len(v.IDs) > 0 {
		return v
	}
	if closest, ok := workload.Closest(outcomes); ok {
		v.Nearest, v.Reason = closest.Rule, closest.Detail
	} else {
		v.Reason = "there are no identity rules"
	}
	return v
}
