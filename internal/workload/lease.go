package workload

import (
	"context"
	"time"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Lease is a hold on the SVIDs of an evaluation. All streams that have the very
// same evaluation hold the same lease.
type Lease struct {
	of      *Identities
	ev      *Evaluation
	entries []*entry // same order as the matches

	// Guarded by of.mu.
	holders int
	changed chan struct{} // closed and replaced when State may have changed
	answer  *answer       // to what State was last, nil once it has changed
}

// Acquire wants the SVIDs of an evaluation. Release gives them back.
func (m *Identities) Acquire(ev *Evaluation) *Lease {
	trust := m.cfg.Trust()
	m.mu.Lock()
	if l, ok := m.leases[ev]; ok {
		l.holders++
		m.mu.Unlock()
		return l
	}
	l := &Lease{of: m, ev: ev, holders: 1, changed: make(chan struct{})}
	m.leases[ev] = l
	now, early := m.cfg.Now(), false
	for _, match := range ev.Matches { // no two of them are for one ID
		e := m.entryOf(match, ev, now)
		e.refresh(trust, now)
		if len(e.leases) == 0 {
			m.held++
		}
		e.leases[l] = struct{}{}
		m.watch(e, now)
		l.entries = append(l.entries, e)
		early = early || !e.signing && e.due.Before(m.planned)
	}
	m.mu.Unlock()
	if early { // before Run looks again by itself
		m.wake()
	}
	return l
}

// entryOf finds or makes the entry of a match. The caller holds mu.
func (m *Identities) entryOf(match registry.Match, ev *Evaluation, now time.Time) *entry {
	key := entryKey(match, ev.digest)
	e, ok := m.entries[key]
	if !ok {
		e = &entry{
			key: key, rule: match.Rule, id: match.ID, ttl: match.TTL, attrs: ev.Attributes,
			leases: make(map[*Lease]struct{}), due: now,
		}
		m.entries[key] = e
	}
	return e
}

// watch has the leases of an entry told when its SVID ends that could not be
// renewed: a client must not go on using it. The caller holds mu.
func (m *Identities) watch(e *entry, now time.Time) {
	if e.end != nil {
		e.end.Stop()
		e.end = nil
	}
	if e.issued == nil || len(e.leases) == 0 {
		return
	}
	e.end = time.AfterFunc(e.issued.NotAfter.Sub(now), func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		e.notify()
		if now := m.cfg.Now(); e.issued != nil && now.Before(e.issued.NotAfter) { // renewed, or the clock was set
			m.watch(e, now)
		}
	})
}

// refresh drops an SVID that has expired or that the bundle no longer vouches
// for, and makes one due that has lain unused past half its life.
func (e *entry) refresh(trust Trust, now time.Time) {
	if e.issued == nil || len(e.leases) > 0 {
		return
	}
	if !e.vouched(trust, now) {
		e.issued, e.due = nil, now
		return
	}
	if half := e.issued.issuedAt.Add(e.issued.NotAfter.Sub(e.issued.issuedAt) / 2); e.due.IsZero() || e.due.After(half) {
		e.due = half
	}
}

// vouched verifies the SVID, once for each bundle: the signature of what a
// bundle has vouched for does not change, and costs more than the rest of a fetch.
func (e *entry) vouched(trust Trust, now time.Time) bool {
	bundle, ok := trust.Bundles.Bundle(e.id.TrustDomain())
	by := voucher{e.issued, bundle}
	if ok && e.voucher == by && !now.Before(e.issued.issuedAt) && now.Before(e.issued.NotAfter) {
		return true
	}
	if e.issued.verify(trust, now) != nil {
		return false
	}
	e.voucher = by
	return true
}

// voucher is which SVID a bundle, of which there is one value, has vouched for.
type voucher struct {
	issued *Issued
	bundle *spiffe.Bundle
}

func entryKey(match registry.Match, digest string) string {
	return match.Rule + "\x00" + match.ID.String() + "\x00" + match.TTL.String() + "\x00" + digest
}

// Held is one identity of a lease: with an SVID, or with the reason why not.
type Held struct {
	Match  registry.Match
	Issued *Issued // nil while there is none
	Err    error   // of the last attempt
}

// State is what the lease holds now, in the order of the matches.
func (l *Lease) State() []Held {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	return l.state(l.of.cfg.Now())
}

// state is State. The caller holds of.mu.
func (l *Lease) state(now time.Time) []Held {
	held := make([]Held, len(l.entries))
	for i, e := range l.entries {
		held[i] = Held{Match: l.ev.Matches[i], Err: e.err}
		if e.issued != nil && now.Before(e.issued.NotAfter) {
			held[i].Issued = e.issued
		}
	}
	return held
}

// Changed is closed when State may be another than it was after it was taken.
func (l *Lease) Changed() <-chan struct{} {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	return l.changed
}

// Wait blocks until every identity has an SVID or was refused, or ctx is done. A
// server that is away is waited for.
func (l *Lease) Wait(ctx context.Context) error {
	for {
		changed, waiting := l.Changed(), false
		for _, h := range l.State() {
			waiting = waiting || h.Issued == nil && !Refused(h.Err)
		}
		if !waiting {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Release ends one hold. The SVIDs stay for whoever comes back before they
// expire, as a restarted workload does.
func (l *Lease) Release() {
	m := l.of
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.holders--; l.holders > 0 {
		return
	}
	delete(m.leases, l.ev)
	for _, e := range l.entries {
		if delete(e.leases, l); len(e.leases) > 0 {
			continue
		}
		m.held--
		m.watch(e, time.Time{})
		if e.issued == nil && !e.signing {
			delete(m.entries, e.key)
		}
	}
	if len(m.entries)-m.held > maxIdle {
		m.evict()
	}
}

// evict drops the idle SVID that ends first. The caller holds mu.
func (m *Identities) evict() {
	var victim *entry
	for _, e := range m.entries {
		if len(e.leases) > 0 || e.signing {
			continue
		}
		if victim == nil || e.issued != nil && victim.issued != nil && e.issued.NotAfter.Before(victim.issued.NotAfter) {
			victim = e
		}
	}
	if victim != nil {
		delete(m.entries, victim.key)
	}
}

// notify tells the leases of an entry. The caller holds mu.
func (e *entry) notify() {
	for l := range e.leases {
		close(l.changed)
		l.changed, l.answer = make(chan struct{}), nil
	}
}

// Saved is an SVID as it is kept across a restart of the agent.
type Saved struct {
	Rule       string              `json:"rule"`
	ID         string              `json:"id"`
	TTL        time.Duration       `json:"ttl,omitempty"`
	Attributes registry.Attributes `json:"attributes"`
	Chain      []byte              `json:"chain"`
	Key        []byte              `json:"key"`
	IssuedAt   time.Time           `json:"issued_at"`
}

// Snapshot is every SVID there is, for keeping.
func (m *Identities) Snapshot() []Saved {
	m.mu.Lock()
	defer m.mu.Unlock()
	saved := make([]Saved, 0, len(m.entries))
	for _, e := range m.entries {
		if e.issued == nil {
			continue
		}
		saved = append(saved, Saved{
			Rule: e.rule, ID: e.id.String(), TTL: e.ttl, Attributes: e.attrs,
			Chain: e.issued.Chain, Key: e.issued.Key, IssuedAt: e.issued.issuedAt,
		})
	}
	return saved
}

// Restore brings back what Snapshot gave; what cannot be read, has expired or
// does not verify is left out. A workload gets one of these only if it is
// evaluated to the same identity again, on the same attributes.
func (m *Identities) Restore(saved []Saved) {
	trust, now := m.cfg.Trust(), m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range saved[:min(len(saved), maxIdle)] {
		svid, err := spiffe.ParseX509SVID(s.Chain, s.Key)
		if err != nil || svid.ID.String() != s.ID {
			continue
		}
		issued := &Issued{ID: svid.ID, Chain: s.Chain, Key: s.Key, NotAfter: svid.Expiry(), issuedAt: s.IssuedAt}
		if issued.verify(trust, now) != nil {
			continue
		}
		match := registry.Match{Rule: s.Rule, ID: svid.ID, TTL: s.TTL}
		key := entryKey(match, attributesDigest(s.Attributes))
		m.entries[key] = &entry{
			key: key, rule: s.Rule, id: svid.ID, ttl: s.TTL, attrs: s.Attributes,
			leases: make(map[*Lease]struct{}), issued: issued,
		}
	}
}
