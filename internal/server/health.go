package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/run"
)

const (
	probeEvery = 2 * time.Second
	// lookEvery is how many probes there are to one that asks the store, where a
	// driver watches its health: for how stale the snapshot is, seconds do.
	lookEvery  = 5
	probeAgain = 200 * time.Millisecond // while it does not answer
	probeLimit = time.Second
	// awayLook is how often a call that waits longer than that looks again.
	awayLook = 50 * time.Millisecond
	// returnLimit is how long a change waits for a store that is away: one that
	// was killed is back in half a second.
	returnLimit = 600 * time.Millisecond

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
	confirmed time.Time // when the store last answered while we followed it
	failing   error     // of the last probe; nil when it answered
	lost      error     // why it is not followed; nil while it is
}

// confirm notes that the store has answered. While its changes do not reach us
// that is no news: the snapshot grows stale all the same.
func (s *Server) confirm() {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.failing = nil
	if s.store.lost == nil {
		s.store.confirmed = s.cfg.Now()
	}
}

// following notes whether changes of the store reach the snapshot.
func (s *Server) following(lost error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.lost = lost
}

// probe asks the store for something small now and then: how stale the
// snapshot may be is only known from an answer.
func (s *Server) probe(ctx context.Context) error {
	tick := time.NewTimer(run.Beat(probeEvery))
	defer tick.Stop()
	behind, off := false, time.Duration(0)
	for n := 1; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		tick.Reset(run.Beat(probeEvery))
		err := s.clockGoesOn()
		if err != nil && !behind {
			s.log.Error("clock went back; no token is taken until it is right", "error", err, "hint", fault.HintOf(err))
		}
		behind = err != nil
		off = s.watchClock(off)
		if s.cfg.StoreHealth != nil && n%lookEvery != 0 && s.answers() {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, probeLimit)
		_, err = s.cfg.Store.Get(limit, revisionKey)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			s.confirm()
		default:
			tick.Reset(probeAgain)
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

// answers says whether the store did at the last probe.
func (s *Server) answers() bool {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	return s.store.failing == nil && s.store.lost == nil
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

// awaitWritable is writable, once a store that is away had the time to return.
func (s *Server) awaitWritable(ctx context.Context) error {
	end := time.NewTimer(returnLimit)
	defer end.Stop()
	tick := time.NewTicker(returnLimit / 20)
	defer tick.Stop()
	for {
		err := s.writable()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-end.C:
			return err
		case <-ctx.Done():
			return err
		}
	}
}

// patience is ctx with an end: commitLimit, or as soon as the store is found
// away after awayLimit.
func (s *Server) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, commitLimit)
	go func() {
		least := time.NewTimer(awayLimit)
		defer least.Stop()
		select {
		case <-least.C:
		case <-ctx.Done():
			return
		}
		tick := time.NewTicker(awayLook)
		defer tick.Stop()
		for {
			if state, _ := s.storeState(); state != storeOK {
				cancel()
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, cancel
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
	if age := s.staleness(); age > 30*time.Second {
		s.store.mu.Lock()
		why := s.store.lost
		s.store.mu.Unlock()
		text := fmt.Sprintf("what this server knows is %s old", age.Round(time.Second))
		if why != nil {
			text += ": " + why.Error()
		}
		out = append(out, text)
	}
	if other := s.hub.otherAlarm(); other != nil {
		out = append(out, other.String())
	}
	if off := s.clockJump(); off != 0 {
		out = append(out, clockJumped(off).Error())
	}
	if left := status.RootNotAfter.Sub(s.cfg.Now()); left < 90*24*time.Hour {
		out = append(out, fmt.Sprintf("the root ends in %.0f days", left.Hours()/24))
	}
	return append(out, s.federationAlarms()...)
}
