package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

const (
	probeEvery = 2 * time.Second
	probeLimit = time.Second

	// How old the last answer of the store may be, as DESIGN §7 has it: beyond
	// staleNewNodes nobody is admitted or comes back by its key, as its ban may
	// have passed us by; beyond staleAll nothing is signed.
	staleNewNodes = time.Hour
	staleAll      = 24 * time.Hour

	storeOK   = "ok"
	storeAway = "away"
)

// storeWatch is what the server knows of the store's health.
type storeWatch struct {
	mu        sync.Mutex
	confirmed time.Time // when the store last answered
	failing   error     // of the last probe; nil when it answered
}

// confirm notes that the store has answered.
func (s *Server) confirm() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.confirmed, s.store.failing = s.cfg.Now(), nil
}

// probe asks the store for something small now and then: how stale the
// snapshot may be is only known from an answer.
func (s *Server) probe(ctx context.Context) error {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		limit, cancel := context.WithTimeout(ctx, probeLimit)
		_, err := s.cfg.Store.Get(limit, revisionKey)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			s.confirm()
		default:
			s.store.mu.Lock()
			first := s.store.failing == nil
			s.store.failing = err
			s.store.mu.Unlock()
			if first {
				s.log.Warn("store does not answer; renewals go on from memory", "error", err)
			}
		}
	}
}

// storeState is ok, read-only or away, and why.
func (s *Server) storeState() (state, reason string) {
	if s.cfg.StoreHealth != nil {
		if state, reason := s.cfg.StoreHealth(); state != storeOK {
			return state, reason
		}
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	if s.store.failing != nil {
		return storeAway, s.store.failing.Error()
	}
	return storeOK, ""
}

// staleness is for how long the store has not answered.
func (s *Server) staleness() time.Duration {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	return s.cfg.Now().Sub(s.store.confirmed)
}

// writable says at once when a change cannot be made now.
func (s *Server) writable() error {
	state, reason := s.storeState()
	if state == storeOK {
		return nil
	}
	return away(fmt.Errorf("the store is %s (%s): nothing can be changed and no token used; renewals go on", state, reason))
}

// freshEnough refuses to sign by a snapshot that is too old.
func (s *Server) freshEnough(limit time.Duration) error {
	if age := s.staleness(); age > limit {
		return away(fmt.Errorf("the store has not answered for %s, the limit is %s", age.Round(time.Second), limit))
	}
	return nil
}

// away is an error of something that may work later.
func away(err error) error {
	if awayErr := (api.Away{}); errors.As(err, &awayErr) {
		return err
	}
	return fault.Hint(api.Away{Err: err}, "kith status says how the store is")
}

// health is what /healthz says: an error as long as the server cannot do what
// it is for.
func (s *Server) health() error {
	if err := s.freshEnough(staleAll); err != nil {
		return err
	}
	return s.ca.Status().RenewError
}

// alarms are the sentences of kith status that need a person.
func (s *Server) alarms() []string {
	var out []string
	if state, reason := s.storeState(); state != storeOK {
		out = append(out, "store "+state+": "+reason)
	}
	status := s.ca.Status()
	if status.RenewError != nil {
		out = append(out, "issuing CA not renewed: "+status.RenewError.Error())
	}
	if status.JournalAlarm {
		out = append(out, fmt.Sprintf("issuance journal %.0f %% full: the audit log does not take it", 100*status.JournalUsed))
	}
	if left := status.RootNotAfter.Sub(s.cfg.Now()); left < 90*24*time.Hour {
		out = append(out, fmt.Sprintf("the root ends in %.0f days", left.Hours()/24))
	}
	return out
}

const (
	flushEvery = 30 * time.Second
	flushBatch = 500
)

// flush writes what renewals left behind in batches, and the clock, until ctx
// ends; then once more.
func (s *Server) flush(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.flushOnce(ctx)
		case <-ctx.Done():
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.flushOnce(limit)
			return nil
		}
	}
}

func (s *Server) flushOnce(ctx context.Context) {
	pending := s.seen.take()
	if s.writable() != nil {
		s.seen.put(pending)
		return
	}
	batch := make(map[string]standing)
	for name, p := range pending {
		batch[name] = p
		if len(batch) == flushBatch {
			s.flushNodes(ctx, batch)
			batch = make(map[string]standing)
		}
	}
	s.flushNodes(ctx, batch)
}

// flushNodes writes one batch. A record that changed meanwhile fails the batch;
// it comes again with the next one, made from the record as it is then.
func (s *Server) flushNodes(ctx context.Context, batch map[string]standing) {
	snap := s.snap()
	txn := registry.Txn{Do: []registry.Op{registry.Put(clockKey, clockValue(s.cfg.Now()))}}
	for name, p := range batch {
		m, ok := snap.members[name]
		if !ok {
			continue // removed meanwhile
		}
		m.node.Expires = p.expires.UTC()
		if p.attested.After(m.node.LastAttested) {
			m.node.LastAttested = p.attested.UTC()
		}
		value, err := m.node.Marshal()
		if err != nil {
			s.log.Error("node record not written", "node", name, "error", err)
			continue
		}
		txn.If = append(txn.If, registry.IfUnchanged(m.item))
		txn.Do = append(txn.Do, registry.Put(m.item.Key, value))
	}
	if _, err := s.commit(ctx, txn); err != nil {
		s.seen.put(batch)
		s.log.Debug("node records not written yet", "error", err)
	}
}
