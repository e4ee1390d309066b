package server

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// checkClock refuses to go on with a clock behind what an earlier server wrote:
// what is signed by such a clock may outlive what it should.
func checkClock(ctx context.Context, store registry.Store, now time.Time) error {
	item, err := store.Get(ctx, clockKey)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the last known time: %w", err)
	}
	last, err := parseClock(item.Value)
	if err != nil {
		return err
	}
	if err := clockFault(now, last); err != nil {
		return fault.Hint(err, "set the clock of this host: timedatectl. If it is right now, it was ahead before: start the server again after %s, "+
			"or begin anew where the trust domain is new (stop it, move its state directory away)", last.UTC().Format(time.RFC3339))
	}
	return nil
}

// clockSlack is how far the clock may step back: time daemons do by seconds.
const clockSlack = time.Minute

func clockFault(now, last time.Time) error {
	if now.Add(clockSlack).Before(last) {
		return fault.Hint(fault.Conflictf("the clock is %s behind: it says %s, but it was %s already",
			last.Sub(now).Round(time.Second), now.UTC().Format(time.RFC3339), last.UTC().Format(time.RFC3339)), "set the clock of this host: timedatectl")
	}
	return nil
}

// clockGoesOn refuses what must not be done by a clock that was set back while we
// ran: a token that had expired would be good again.
func (s *Server) clockGoesOn() error {
	now := s.cfg.Now()
	for {
		last := s.latest.Load()
		if now.UnixNano() <= last {
			return clockFault(now, time.Unix(0, last))
		}
		if s.latest.CompareAndSwap(last, now.UnixNano()) {
			return nil
		}
	}
}

func clockValue(now time.Time) []byte { return []byte(strconv.FormatInt(now.Unix(), 10)) }

func parseClock(value []byte) (time.Time, error) {
	seconds, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("last known time in the store: %w", err)
	}
	return time.Unix(seconds, 0), nil
}

// clockJump is how far the host's clock has jumped from ours.
func (s *Server) clockJump() time.Duration {
	if s.cfg.ClockJump == nil {
		return 0
	}
	return s.cfg.ClockJump().Round(time.Second)
}

// watchClock logs when the host's clock jumps, and when all is well again; it
// returns how far the clock is off.
func (s *Server) watchClock(before time.Duration) time.Duration {
	off := s.clockJump()
	switch {
	case off != 0 && (before == 0 || before > 0 != (off > 0)):
		err := clockJumped(off)
		s.log.Error("clock jumped", "error", err, "hint", fault.HintOf(err))
	case off == 0 && before != 0:
		s.log.Info("clock goes on as it should", "was_off", before.String())
	}
	return off
}

// clockJumped says that the host's clock was set.
func clockJumped(off time.Duration) error {
	const hint = "set the clock of this host: timedatectl"
	if off < 0 {
		return fault.Hint(fault.Conflictf("the clock of this host went back by %s; this server goes on by the time that has passed since, and would not start again", -off), hint)
	}
	return fault.Hint(fault.Conflictf("the clock of this host jumped ahead by %s; this server goes on by the time that has passed since, for five minutes, then it believes it", off), hint)
}
