package obs_test

import (
	"testing"
	"time"

	"github.com/kith-id/kith/internal/obs"
)

// host is a host whose clock can be set.
type host struct {
	started time.Time
	passed  time.Duration
	off     time.Duration
}

func newHost() *host {
	return &host{started: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), passed: 90 * time.Minute}
}

func (h *host) wall() time.Time { return h.started.Add(h.passed + h.off) }

func (h *host) clock() *obs.Clock {
	return obs.NewClock(h.wall, func() time.Duration { return h.passed })
}

// want looks every second for so long, and compares at the end.
func (h *host) want(t *testing.T, c *obs.Clock, wait, off, jump time.Duration) {
	t.Helper()
	for end := h.passed + wait; h.passed < end; {
		h.passed += time.Second
		c.Now()
	}
	now, real := c.Now(), h.started.Add(h.passed)
	if got := now.Sub(real); got != off {
		t.Errorf("%s after the jump the clock is %s off, want %s", wait, got, off)
	}
	if got := c.Jump(); got != jump {
		t.Errorf("%s after the jump it reports %s, want %s", wait, got, jump)
	}
}

// T30, bar 16: the clock of the host is set ahead and back again.
func TestT30JumpAheadIsDoubted(t *testing.T) {
	h := newHost()
	c := h.clock()
	h.off = 24 * time.Hour
	h.want(t, c, 0, 0, 24*time.Hour)
	h.want(t, c, 4*time.Minute, 0, 24*time.Hour)
	h.off = 0
	h.want(t, c, time.Second, 0, 0)
	h.off = 24 * time.Hour
	h.want(t, c, 4*time.Minute, 0, 24*time.Hour) // doubted anew
}

// A host that was frozen has its clock set ahead for good.
func TestJumpAheadThatStaysIsBelieved(t *testing.T) {
	h := newHost()
	c := h.clock()
	h.off = 24 * time.Hour
	h.want(t, c, 6*time.Minute, 24*time.Hour, 0)
	h.want(t, c, time.Hour, 24*time.Hour, 0)
}

// T30, bar 16: what ended does not come back, however long the clock is wrong.
func TestT30JumpBackIsNeverBelieved(t *testing.T) {
	h := newHost()
	c := h.clock()
	h.off = -24 * time.Hour
	h.want(t, c, 0, 0, -24*time.Hour)
	h.want(t, c, time.Hour, 0, -24*time.Hour)
	h.off = 2 * time.Hour // and now it is wrong the other way
	h.want(t, c, 4*time.Minute, 0, 2*time.Hour)
	h.off = 0
	h.want(t, c, time.Second, 0, 0)
}

// Steps that a time daemon makes are followed, and so is a clock that is slow.
func TestClockFollowsSmallSteps(t *testing.T) {
	h := newHost()
	c := h.clock()
	for _, off := range []time.Duration{20 * time.Second, -20 * time.Second, 0} {
		h.off = off
		h.want(t, c, 0, off, 0)
	}
	for range 3600 {
		h.passed += time.Second
		h.off -= time.Second / 100
		c.Now()
	}
	h.want(t, c, 0, h.off, 0)
}

// T30: a clock that is led away in small steps is a clock that jumped.
func TestT30SmallStepsAddUp(t *testing.T) {
	h := newHost()
	c := h.clock()
	for range 10 {
		h.passed += 10 * time.Second
		h.off -= 50 * time.Second
		c.Now()
	}
	if got := c.Now().Sub(h.started.Add(h.passed)).Abs(); got > time.Minute {
		t.Errorf("ten steps of 50 s led the clock %s away, want a minute at most", got)
	}
	if c.Jump() == 0 {
		t.Error("nothing is reported")
	}
}

// The time since the host's start goes on.
func TestUptime(t *testing.T) {
	up := obs.Uptime()
	before := up()
	c := obs.NewClock(obs.Now, up)
	for c.Now().Sub(obs.Now()).Abs() > time.Minute || up() == before {
		if t.Context().Err() != nil {
			t.Fatal("the clock does not go on")
		}
	}
}
