package federation

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// The other side's refresh hint is kept to between these: a shorter one would
// have us work for it, a longer one would let it hold on to keys it has revoked.
// firstAgain is the interval while there is no bundle at all.
const (
	minInterval = 30 * time.Second
	maxInterval = time.Hour
	firstAgain  = time.Minute
	maxFetches  = 8 // at a time
)

// PollerConfig is what a Poller needs. All but Metrics must be given.
type PollerConfig struct {
	// Fetch asks an endpoint; a Fetcher's.
	Fetch func(context.Context, registry.Federation) (Fetched, error)
	// Held is the bundle in force of a trust domain.
	Held func(spiffe.TrustDomain) (*spiffe.Bundle, bool)
	// Keep puts a bundle in force everywhere, and returns once it is.
	Keep    func(context.Context, spiffe.TrustDomain, []byte) error
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Report is how the fetching of one trust domain's bundle goes.
type Report struct {
	Checked time.Time // the last attempt; zero before the first
	Fetched time.Time // the last one that worked
	Next    time.Time // the next one
	Err     error     // of the last attempt
}

// Poller fetches the bundles of all relationships, each at its own refresh hint.
type Poller struct {
	cfg     PollerConfig
	metrics *pollerMetrics
	slots   chan struct{} // held by a fetch
	wake    chan struct{} // capacity 1

	mu      sync.Mutex
	wanted  map[spiffe.TrustDomain]registry.Federation // guarded by mu; replaced, not changed
	workers map[spiffe.TrustDomain]*worker             // guarded by mu
	moved   chan struct{}                              // closed and replaced by reconcile; guarded by mu
}

// worker polls one relationship.
type worker struct {
	rel    registry.Federation
	asked  chan chan Report // each of capacity 1
	cancel context.CancelFunc
	done   chan struct{}
	said   string // the last failure logged; of its own goroutine

	mu     sync.Mutex
	report Report // guarded by mu
}

// NewPoller returns a Poller without relationships; Run does the work.
func NewPoller(cfg PollerConfig) *Poller {
	p := &Poller{
		cfg: cfg, slots: make(chan struct{}, maxFetches), wake: make(chan struct{}, 1),
		workers: make(map[spiffe.TrustDomain]*worker), moved: make(chan struct{}),
	}
	p.metrics = newPollerMetrics(cfg.Metrics, p)
	return p
}

// Set replaces the relationships: polling of those that are gone ends, new ones
// are fetched at once, and so are those of which anything changed. It does not
// wait.
func (p *Poller) Set(all map[string]registry.Federation) {
	wanted := make(map[spiffe.TrustDomain]registry.Federation, len(all))
	for _, rel := range all {
		wanted[rel.TrustDomain] = rel
	}
	p.mu.Lock()
	p.wanted = wanted
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run polls until ctx ends.
func (p *Poller) Run(ctx context.Context) error {
	for {
		p.reconcile(ctx)
		select {
		case <-p.wake:
		case <-ctx.Done():
			p.Set(nil)
			p.reconcile(ctx)
			return nil
		}
	}
}

// reconcile ends and starts workers, so that there is one for each relationship.
func (p *Poller) reconcile(ctx context.Context) {
	p.mu.Lock()
	wanted := p.wanted
	var ended []*worker
	for td, w := range p.workers {
		if rel, here := wanted[td]; !here || !same(rel, w.rel) {
			w.cancel()
			delete(p.workers, td)
			ended = append(ended, w)
		}
	}
	p.mu.Unlock()
	// A worker that keeps a bundle must be over before another of the same trust
	// domain begins, or the older one could write last.
	for _, w := range ended {
		<-w.done
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for td, rel := range wanted {
		if p.workers[td] != nil || ctx.Err() != nil {
			continue
		}
		own, cancel := context.WithCancel(ctx)
		w := &worker{rel: rel, asked: make(chan chan Report), cancel: cancel, done: make(chan struct{})}
		p.workers[td] = w
		go func() {
			defer close(w.done)
			p.work(own, w)
		}()
	}
	close(p.moved)
	p.moved = make(chan struct{})
}

// same compares what a fetch depends on.
func same(a, b registry.Federation) bool {
	return a.URL == b.URL && a.Profile == b.Profile && a.EndpointID == b.EndpointID && bytes.Equal(a.Bundle, b.Bundle)
}

// work polls one relationship until ctx ends. What fails is tried again at the
// next poll and no sooner: SPIFFE Federation 6.2.
func (p *Poller) work(ctx context.Context, w *worker) {
	var answer chan Report // of who asked for this poll
	for {
		err := p.poll(ctx, w.rel)
		if ctx.Err() != nil {
			return
		}
		wait := p.interval(w.rel.TrustDomain)
		report := p.note(w, err, wait)
		if answer != nil {
			answer <- report
			answer = nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case answer = <-w.asked:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// interval is until the next poll: the bundle's refresh hint, within bounds,
// less a random tenth so that servers started together do not ask together.
func (p *Poller) interval(td spiffe.TrustDomain) time.Duration {
	every := firstAgain
	if held, ok := p.cfg.Held(td); ok {
		every = min(max(held.RefreshHint(), minInterval), maxInterval)
	}
	return every - rand.N(every/10+1)
}

// poll fetches once, and keeps what is new.
func (p *Poller) poll(ctx context.Context, rel registry.Federation) error {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	got, err := p.cfg.Fetch(ctx, rel)
	if err != nil {
		return err
	}
	held, have := p.cfg.Held(rel.TrustDomain)
	switch {
	case have && got.Bundle.Sequence() < held.Sequence():
		err := failed(ReasonSequence, "endpoint gives an older bundle, with sequence %d; the one with %d is kept", got.Bundle.Sequence(), held.Sequence())
		return fault.Hint(err, "if %s was rebuilt: kith federate delete %s, then add it again", rel.TrustDomain, rel.TrustDomain)
	case have && got.Bundle.Equal(held):
		return nil
	case have && got.Bundle.Sequence() == held.Sequence() && held.Sequence() > 0:
		p.cfg.Log.Warn("bundle changed without its sequence", "trust_domain", rel.TrustDomain.String(), "sequence", held.Sequence())
	}
	if err := p.cfg.Keep(ctx, rel.TrustDomain, got.Document); err != nil {
		return &Error{Reason: ReasonStore, Err: fmt.Errorf("keep the bundle: %w", err)}
	}
	p.changed(rel.TrustDomain, got.Bundle)
	return nil
}

// changed tells of a new bundle. One that holds nothing is in force like any
// other, and a person should know: all SVIDs of the trust domain are refused.
func (p *Poller) changed(td spiffe.TrustDomain, bundle *spiffe.Bundle) {
	p.metrics.changed.Inc()
	if Revoked(bundle) {
		p.cfg.Log.Error("trust domain has revoked all its keys", "trust_domain", td.String(), "sequence", bundle.Sequence(),
			"hint", "its SVIDs are refused from now on; ask its operators")
		return
	}
	p.cfg.Log.Info("bundle changed", "trust_domain", td.String(), "sequence", bundle.Sequence(),
		"roots", len(bundle.Roots()), "jwt_keys", len(bundle.JWTKeys()))
}

// Revoked says whether a bundle trusts nothing: Trust Domain and Bundle 4.1.3.
func Revoked(bundle *spiffe.Bundle) bool {
	return len(bundle.Roots()) == 0 && len(bundle.JWTKeys()) == 0
}

// note records an attempt, and logs a failure that is another than the last.
func (p *Poller) note(w *worker, err error, wait time.Duration) Report {
	now := p.cfg.Now()
	w.mu.Lock()
	w.report.Checked, w.report.Next, w.report.Err = now, now.Add(wait), err
	if err == nil {
		w.report.Fetched = now
	}
	report := w.report
	w.mu.Unlock()
	if err == nil {
		p.metrics.fetches.WithLabelValues("ok").Inc()
		w.said = ""
		return report
	}
	p.metrics.fetches.WithLabelValues(string(reasonOf(err))).Inc()
	if text := err.Error(); text != w.said {
		w.said = text
		_, have := p.cfg.Held(w.rel.TrustDomain)
		p.cfg.Log.Warn("bundle not fetched", "trust_domain", w.rel.TrustDomain.String(), "url", w.rel.URL,
			"reason", string(reasonOf(err)), "error", err, "kept", have, "hint", fault.HintOf(err))
	}
	return report
}

// Refresh fetches the bundle of a trust domain now and says how it went.
func (p *Poller) Refresh(ctx context.Context, td spiffe.TrustDomain) (Report, error) {
	w, err := p.worker(ctx, td)
	if err != nil {
		return Report{}, err
	}
	answer := make(chan Report, 1)
	select {
	case w.asked <- answer:
	case <-w.done:
		return Report{}, fault.Conflictf("the relationship with %s has just changed", td)
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	select {
	case report := <-answer:
		return report, nil
	case <-w.done:
		return Report{}, fault.Conflictf("the relationship with %s has just changed", td)
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
}

// worker is who polls a relationship; one that was just set is waited for.
func (p *Poller) worker(ctx context.Context, td spiffe.TrustDomain) (*worker, error) {
	for {
		p.mu.Lock()
		w, moved := p.workers[td], p.moved
		rel, wanted := p.wanted[td]
		p.mu.Unlock()
		switch {
		case !wanted:
			return nil, fault.Hint(fault.NotFoundf("no relationship with %s is polled here", td), "kith federate list")
		case w != nil && same(rel, w.rel):
			return w, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Reports is how it goes, for each relationship that is polled.
func (p *Poller) Reports() map[spiffe.TrustDomain]Report {
	p.mu.Lock()
	workers := maps.Clone(p.workers)
	p.mu.Unlock()
	out := make(map[spiffe.TrustDomain]Report, len(workers))
	for td, w := range workers {
		w.mu.Lock()
		out[td] = w.report
		w.mu.Unlock()
	}
	return out
}
