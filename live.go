package kith

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/policy"
)

// live holds the exchanges that outlive one decision. They are decided again,
// in the goroutine that swapped the policy and before it is acked.
type live struct {
	mu   sync.Mutex
	held map[*exchange]struct{} // guarded by mu
	cuts atomic.Uint64
}

type exchange struct {
	peer    *Peer
	request Request
	cut     func(Decision)

	agreement agreement // of external decisions; guarded by live.mu
}

type expiring struct{ notAfter time.Time }

func (l *live) init() { l.held = make(map[*exchange]struct{}) }

// Hold decides like Decide and, if allowed, goes on deciding: at each change of
// policy that denies the exchange, cut is called once with that decision. cut
// must return at once; it runs before the change is acknowledged. External
// decisions are asked again at each change, and every minute; whoever of them does
// not agree any more cuts as well. release ends the watch and may be called more
// than once; it is never nil.
func (w *Workload) Hold(peer *Peer, request Request, cut func(Decision)) (d Decision, release func()) {
	return w.hold(context.Background(), peer, request, nil, cut)
}

func (w *Workload) hold(ctx context.Context, peer *Peer, request Request, own *check, cut func(Decision)) (d Decision, release func()) {
	e := &exchange{peer: peer, request: request, cut: cut}
	// First in the set, then the decision: a change in between is seen by one
	// of the two.
	w.live.mu.Lock()
	w.live.held[e] = struct{}{}
	w.live.mu.Unlock()
	ruling, now := w.policy.Load(), w.cfg.Now()
	d = w.decide(ctx, peer, &e.request, own, now)
	if !d.Allowed {
		w.live.release(e)
		return d, func() {}
	}
	w.live.agreed(e, ruling, d.Path, now)
	if w.policy.Load() != ruling {
		w.nudgeExternals() // which may have looked before there was an agreement
	}
	return d, func() { w.live.release(e) }
}

func (l *live) release(e *exchange) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, held := l.held[e]
	delete(l.held, e)
	return held
}

// decideAgain judges every live exchange by the policy now in force and cuts
// what it denies. It returns how many were cut.
func (l *live) decideAgain(w *Workload) int {
	l.mu.Lock()
	exchanges := make([]*exchange, 0, len(l.held))
	for e := range l.held {
		exchanges = append(exchanges, e)
	}
	l.mu.Unlock()
	count, now := 0, w.cfg.Now()
	for _, e := range exchanges {
		var d Decision
		var verdict policy.Decision
		w.judge(e.peer, &e.request, now, &d, &verdict)
		if d.Allowed || !l.release(e) {
			continue
		}
		d.ID = newDecisionID()
		w.report(e.peer, &e.request, &d, &verdict, reported{began: now})
		e.cut(d)
		count++
	}
	l.cuts.Add(uint64(count))
	return count
}
