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
)

// whyGather collects the answers to one query; guarded by hub.mu but for done.
type whyGather struct {
	pending   map[string]struct{}
	decisions []*pb.Decision
	done      chan struct{}
}

// ask puts a question to every connected agent and returns what came back
// within askLimit, newest first.
func (h *hub) ask(ctx context.Context, q *pb.WhyQuery) ([]*pb.Decision, error) {
	g := &whyGather{pending: make(map[string]struct{}), done: make(chan struct{})}
	number, err := h.pose(q, g)
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
	slices.SortStableFunc(g.decisions, func(a, b *pb.Decision) int {
		return cmp.Compare(b.GetTimeUnixNano(), a.GetTimeUnixNano())
	})
	return g.decisions, ctx.Err()
}

func (h *hub) pose(q *pb.WhyQuery, g *whyGather) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.answers) >= maxOutstanding {
		return 0, fault.Conflictf("too many questions to the agents at once")
	}
	h.queries++
	q.Query = h.queries
	frame, err := api.NewFrame(&pb.SyncResponse{Message: &pb.SyncResponse_Why{Why: q}})
	if err != nil {
		return 0, err
	}
	h.answers[q.Query] = g
	for name, l := range h.links {
		if len(l.outbox) >= maxOutstanding {
			continue // it does not read; its answer would be late anyway
		}
		g.pending[name] = struct{}{}
		l.outbox = append(l.outbox, frame)
		l.poke()
	}
	if len(g.pending) == 0 {
		close(g.done)
	}
	return q.Query, nil
}

// answer records what one agent knows. Whatever node the decisions name, they
// are this node's.
func (h *hub) answer(l *link, a *pb.WhyAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.answers[a.GetQuery()]
	if g == nil || h.links[l.node] != l {
		return
	}
	if _, asked := g.pending[l.node]; !asked {
		return
	}
	delete(g.pending, l.node)
	decisions := a.GetDecisions()
	for _, d := range decisions[:min(len(decisions), maxDecisions)] {
		d.Node = l.node
		g.decisions = append(g.decisions, d)
	}
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
