package obs

import (
	"sync"
	"time"
)

const (
	// clockStep is how far the host's clock may be from where it should be by the
	// time that has passed: time daemons step by seconds.
	clockStep = time.Minute
	// clockDoubt is how long a clock that jumped ahead is doubted. A host that was
	// frozen and has its clock set on waking is believed after that.
	clockDoubt = 5 * time.Minute
	// clockDrift: one part in so many of the time passed is taken for drift. Real
	// clocks and daemons that slew stay far below it; a clock that is led away in
	// small steps does not.
	clockDrift = 50
)

// Clock is the host's clock as long as it goes on as time passes. It does not
// follow one that jumps: what ended does not come back, and what has not ended
// is not over, because somebody set the clock. A jump ahead is believed when it
// has lasted five minutes, a jump back never: then a person must look. It is
// safe for concurrent use.
type Clock struct {
	wall   func() time.Time
	passed func() time.Duration

	mu    sync.Mutex
	at    time.Time     // guarded by mu; the time at the last look
	after time.Duration // guarded by mu; what had passed then
	jump  time.Duration // guarded by mu; how far the host's clock is off; 0: it goes on
	since time.Duration // guarded by mu; what had passed when it jumped
}

// NewClock starts from what wall, the host's clock, says now. passed is the time
// that has passed since some moment, however wall is set: see [Uptime].
func NewClock(wall func() time.Time, passed func() time.Duration) *Clock {
	return &Clock{wall: wall, passed: passed, at: wall().Round(0), after: passed()}
}

// Now is the time, without a monotonic reading.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.look()
}

// Jump is how far the host's clock has jumped from this one, ahead or back; zero
// while it goes on as it should.
func (c *Clock) Jump() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	return c.jump
}

// look brings all up to date. The caller holds mu.
func (c *Clock) look() time.Time {
	wall, now := c.wall().Round(0), c.passed()
	due := c.at.Add(now - c.after)
	off := wall.Sub(due)
	if off.Abs() <= clockStep {
		drift := (now - c.after) / clockDrift
		c.at, c.after, c.jump = due.Add(max(min(off, drift), -drift)), now, 0
		return wall
	}
	if c.jump == 0 || c.jump > 0 != (off > 0) {
		c.since = now
	}
	c.jump = off
	if off > 0 && now-c.since >= clockDoubt {
		c.at, c.after, c.jump = wall, now, 0
		return wall
	}
	return due
}
