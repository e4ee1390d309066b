package kith

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/policy"
)

// A live exchange that external decisions have agreed to is asked about again:
// by whoever decides now when the policy changes, and from time to time because
// what they decide by changes without a word to us.
const (
	// askPause is how old an agreement becomes before it is asked for again.
	askPause = time.Minute
	// agreementLife is how old one becomes that cannot be had again, because nobody
	// answers: a restart of an OPA must not end all streams, its end must.
	agreementLife = 5 * time.Minute
	// maxAskedAgain bounds questions about live exchanges that are under way, so that
	// many of these leave room for those of requests that wait.
	maxAskedAgain = 16
)

// agreement is what external decisions have said of a live exchange.
type agreement struct {
	at     time.Time   // zero until the exchange is decided
	ruling *ruling     // by which they were asked
	by     []*external // that were asked; without any there is nothing to ask again
}

// agreed notes what the exchange was just asked about.
func (l *live) agreed(e *exchange, r *ruling, path string, now time.Time) {
	by := r.askedAbout(&e.request, path)
	l.mu.Lock()
	defer l.mu.Unlock()
	e.agreement = agreement{at: now, ruling: r, by: by}
}

// askedAbout are the external decisions about a request, its path in normal form.
func (r *ruling) askedAbout(request *Request, path string) []*external {
	if len(r.externals) == 0 {
		return nil
	}
	asked := request.asked()
	asked.Path = path
	var out []*external
	for i, e := range r.externals {
		if r.table.Asks(i, asked) {
			out = append(out, e)
		}
	}
	return out
}

// watchExternals asks again about live exchanges until ctx ends.
func (w *Workload) watchExternals(ctx context.Context) {
	for {
		var passes <-chan time.Time
		if len(w.policy.Load().externals) > 0 {
			passes = time.After(askPause / 2)
		}
		select {
		case <-w.asking:
		case <-passes:
		case <-ctx.Done():
			return
		}
		w.askAgain(ctx, w.cfg.Now())
	}
}

// nudgeExternals tells watchExternals that there is another policy.
func (w *Workload) nudgeExternals() {
	select {
	case w.asking <- struct{}{}:
	default:
	}
}

// askAgain asks about every live exchange whose agreement is of another policy or
// old, and cuts what is not agreed to. It returns when all have been asked about.
func (w *Workload) askAgain(ctx context.Context, now time.Time) {
	ruling := w.policy.Load()
	type due struct {
		e  *exchange
		by agreement
	}
	var all []due
	w.live.mu.Lock()
	for e := range w.live.held {
		if a := e.agreement; !a.at.IsZero() && (a.ruling != ruling || len(a.by) > 0 && now.Sub(a.at) >= askPause) {
			all = append(all, due{e, a})
		}
	}
	w.live.mu.Unlock()
	slots := make(chan struct{}, maxAskedAgain)
	var asked sync.WaitGroup
	for _, d := range all {
		slots <- struct{}{}
		asked.Go(func() {
			defer func() { <-slots }()
			w.askAbout(ctx, ruling, d.e, d.by, now)
		})
	}
	asked.Wait()
}

// askAbout asks about one exchange. Who says no ends it at once; who does not
// answer leaves it as long as an earlier agreement of its own is good.
func (w *Workload) askAbout(ctx context.Context, ruling *ruling, e *exchange, before agreement, now time.Time) {
	var d Decision
	var verdict policy.Decision
	w.judge(e.peer, &e.request, now, &d, &verdict)
	if !d.Allowed || ctx.Err() != nil {
		return // who swapped the policy has cut it; or we are ending
	}
	silent := false
	if !d.Observed {
		silent = w.consult(ctx, ruling, e.peer, &e.request, &d, &verdict)
	}
	if d.Allowed {
		w.live.agreed(e, ruling, d.Path, now)
		return
	}
	same := !slices.ContainsFunc(ruling.askedAbout(&e.request, d.Path), func(x *external) bool { return !slices.Contains(before.by, x) })
	switch {
	case ctx.Err() != nil || w.policy.Load() != ruling: // whoever was asked may be closed: the next policy asks
		return
	case silent && same && now.Sub(before.at) < agreementLife:
		return
	case !w.live.release(e):
		return
	}
	d.ID = newDecisionID()
	w.report(e.peer, &e.request, &d, &verdict, reported{began: now})
	e.cut(d)
	w.live.cuts.Add(1)
}
