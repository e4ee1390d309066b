package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// decisionHeader carries the id of a denial, and explainWait is how long a
// decision may take from the callee's proxy to where we ask for it.
const (
	decisionHeader = "kith-decision"
	explainWait    = 2 * time.Second
)

// explainDenial asks the server of this host why; the callee's side is told
// nothing but an id.
func (a *app) explainDenial(ctx context.Context, as, id string) {
	d, err := a.awaitDecision(ctx, id)
	if err != nil {
		fmt.Fprintf(a.stderr, "error: denied, decision %s\nhint: on the server's host: kith why %s\n", id, id)
		return
	}
	fmt.Fprintf(a.stderr, "error: %s\n", visible(denial(d, as)))
	if d.GetHint() != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", visible(d.GetHint()))
	}
}

// awaitDecision asks until the report of the decision has come in.
func (a *app) awaitDecision(ctx context.Context, id string) (*pb.Decision, error) {
	ctx, cancel := context.WithTimeout(ctx, explainWait)
	defer cancel()
	for {
		decisions, err := a.decisions(ctx, &pb.WhyRequest{Id: id})
		if err == nil {
			return decisions[0], nil
		}
		if !fault.Is(err, fault.NotFound) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// denial is a denial in one sentence.
func denial(d *pb.Decision, as string) string {
	source := as
	if source == "" {
		source = who(d)
	}
	switch d.GetReason() {
	case "no_rule", "no_source":
		return fmt.Sprintf("no rule allows %s %q on %s", source, call(d), d.GetTo())
	case "deny_rule", "guardrail_deny":
		return fmt.Sprintf("rule %s denies %s %q on %s", d.GetRule(), source, call(d), d.GetTo())
	default:
		return fmt.Sprintf("%s %q on %s is denied: %s", source, call(d), d.GetTo(), reasonText(d))
	}
}
