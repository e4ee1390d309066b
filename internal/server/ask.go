package server

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const (
	// askLimit is how long agents may take to say what they decided.
	askLimit = time.Second
	// unknownPause is between two rounds for a decision nobody knows yet: an
	// enforcement point reports in batches.
	unknownPause = 100 * time.Millisecond
	unknownLimit = 500 * time.Millisecond

	maxDecisions   = 1000
	maxOutstanding = 64
	maxNodeFlows   = 32768 // in the answer of one agent
)

// gather collects the answers to one query; guarded by hub.mu but for done.
type gather struct {
	pending   map[string]struct{}
	asked     int
	decisions []*pb.Decision
	flows     []*pb.Flow
	uncounted uint64
	done      chan struct{}
}

// ask puts a question to every connected agent and returns what came back
// within askLimit, newest first.
func (h *hub) ask(ctx context.Context, q *pb.WhyQuery) ([]*pb.Decision, error) {
	g, err := h.collect(ctx, func(number uint64) *pb.SyncResponse {
		q.Query = number
		return &pb.SyncResponse{Message: &pb.SyncResponse_Why{Why: q}}
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(g.decisions, func(a, b *pb.Decision) int {
		return cmp.Compare(b.GetTimeUnixNano(), a.GetTimeUnixNano())
	})
	return g.decisions, ctx.Err()
}

// askFlows asks every connected agent what it counted.
func (h *hub) askFlows(ctx context.Context, to string) (*gather, error) {
	g, err := h.collect(ctx, func(number uint64) *pb.SyncResponse {
		return &pb.SyncResponse{Message: &pb.SyncResponse_Flows{Flows: &pb.FlowQuery{Query: number, To: to}}}
	})
	if err != nil {
		return nil, err
	}
	return g, ctx.Err()
}

// collect poses a question and waits for its answers. Nobody writes to what it
// returns.
func (h *hub) collect(ctx context.Context, question func(number uint64) *pb.SyncResponse) (*gather, error) {
	g := &gather{pending: make(map[string]struct{}), done: make(chan struct{})}
	number, err := h.pose(question, g)
	if err != nil {
		return nil, err
	}
	limit := time.NewTimer(askLimit)
	defer limit.Stop()
	select {
	case <-g.done:
	case <-limit.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.answers, number)
	return g, nil
}

func (h *hub) pose(question func(number uint64) *pb.SyncResponse, g *gather) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.answers) >= maxOutstanding {
		return 0, fault.Conflictf("too many questions to the agents at once")
	}
	h.queries++
	number := h.queries
	frame, err := api.NewFrame(question(number))
	if err != nil {
		return 0, err
	}
	h.answers[number] = g
	for name, l := range h.links {
		if len(l.outbox) >= maxOutstanding {
			continue // it does not read; its answer would be late anyway
		}
		g.pending[name] = struct{}{}
		l.outbox = append(l.outbox, frame)
		l.poke()
	}
	if g.asked = len(g.pending); g.asked == 0 {
		close(g.done)
	}
	return number, nil
}

// answer records what one agent knows. Whatever node the decisions name, they
// are this node's.
func (h *hub) answer(l *link, a *pb.WhyAnswer) {
	h.record(l, a.GetQuery(), func(g *gather) {
		decisions := a.GetDecisions()
		for _, d := range decisions[:min(len(decisions), maxDecisions)] {
			d.Node = l.node
			g.decisions = append(g.decisions, d)
		}
	})
}

// answerFlows records what one agent counted.
func (h *hub) answerFlows(l *link, a *pb.FlowAnswer) {
	h.record(l, a.GetQuery(), func(g *gather) {
		flows := a.GetFlows()
		g.flows = append(g.flows, flows[:min(len(flows), maxNodeFlows)]...)
		g.uncounted += a.GetUncounted()
	})
}

// record takes one agent's answer to a question it was asked, once.
func (h *hub) record(l *link, query uint64, take func(*gather)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.answers[query]
	if g == nil || h.links[l.node] != l {
		return
	}
	if _, asked := g.pending[l.node]; !asked {
		return
	}
	delete(g.pending, l.node)
	take(g)
	if len(g.pending) == 0 {
		close(g.done)
	}
}

// dropAnswers stops waiting for a node that is gone; h.mu is held.
func (h *hub) dropAnswers(node string) {
	for _, g := range h.answers {
		if _, ok := g.pending[node]; !ok {
			continue
		}
		delete(g.pending, node)
		if len(g.pending) == 0 {
			close(g.done)
		}
	}
}
