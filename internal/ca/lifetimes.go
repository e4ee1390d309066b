package ca

import (
	"time"

	"github.com/kith-id/kith/internal/fault"
)

const (
	minOutage  = 30 * time.Second
	maxOutage  = 84 * time.Hour // a leaf of a week
	minLeaf    = 10 * time.Second
	maxRoot    = 30 * 365 * 24 * time.Hour
	defaultTTL = 10 * 365 * 24 * time.Hour // of a root
	maxSkew    = 10 * time.Minute
)

// Lifetimes says how long certificates live. Make one with [LifetimesFor].
type Lifetimes struct {
	Leaf    time.Duration
	Issuing time.Duration
}

// LifetimesFor derives lifetimes from how long the control plane may be away.
// All is renewed at half life, so a leaf of twice the budget has the whole
// budget left at its worst moment, and an issuing CA of four times the budget
// never has less left than a leaf needs. The default of 30 min gives leaves of
// 1 h; 30 s to 84 h can be kept.
func LifetimesFor(outage time.Duration) (Lifetimes, error) {
	if outage < minOutage || outage > maxOutage {
		err := fault.Invalidf("survive.control_plane_outage: %s cannot be kept", outage)
		return Lifetimes{}, fault.Hint(err, "choose a time from %s to %s", minOutage, maxOutage)
	}
	return Lifetimes{Leaf: 2 * outage, Issuing: 4 * outage}, nil
}

// DefaultLifetimes survives 30 min without a control plane.
func DefaultLifetimes() Lifetimes {
	return Lifetimes{Leaf: time.Hour, Issuing: 2 * time.Hour}
}

func (l Lifetimes) validate() error {
	if l.Leaf < 2*minOutage || l.Leaf > 2*maxOutage || l.Issuing < 2*l.Leaf {
		return fault.Invalidf("lifetimes of %s for leaves and %s for the issuing CA do not fit: the second is at least twice the first", l.Leaf, l.Issuing)
	}
	return nil
}

// CheckTTL refuses a lifetime that Sign would refuse: one under 10 s, or over
// that of leaves. Zero is the default and fine.
func (l Lifetimes) CheckTTL(ttl time.Duration) error {
	switch {
	case ttl == 0:
		return nil
	case ttl < minLeaf:
		return fault.Invalidf("ttl %s is under %s", ttl, minLeaf)
	case ttl > l.Leaf:
		err := fault.Invalidf("ttl %s is over %s, which is what the outage budget allows", ttl, l.Leaf)
		return fault.Hint(err, "lower the ttl, or raise survive.control_plane_outage to %s", (ttl+1)/2)
	}
	return nil
}

// backdate is how far before now a certificate begins, so that peers whose
// clock is behind accept it; never more than half its life. Certificates know
// whole seconds only.
func backdate(ttl time.Duration) time.Duration { return min(maxSkew, ttl/2).Truncate(time.Second) }

// earlier is the earlier of two times.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// later is the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
