package server

import (
	"math/rand/v2"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

const (
	// An agent that a change does not concern gets it with the next one that
	// does, and otherwise after lagLeast to twice that and a half, or when it is
	// some revisions behind: it must not fall out of the ring.
	lagLeast = 6 * time.Second
	lagMost  = ringSize * 7 / 8
	lagTick  = time.Second

	maxInterest = 4096 // services of one node; with more it gets everything
)

// names is a set of services; nil is all there are.
type names map[string]struct{}

// meets says whether two sets have a service in common.
func (n names) meets(other names) bool {
	if n == nil || other == nil {
		return true
	}
	if len(other) < len(n) {
		n, other = other, n
	}
	for name := range n {
		if _, ok := other[name]; ok {
			return true
		}
	}
	return false
}

// scopeOf is the services whose enforcement points a change concerns: those that
// its rules are to, before and after. Whatever else changes concerns everybody.
func scopeOf(before, next *snapshot, c change) names {
	scope := make(names)
	add := func(key objectKey) bool {
		if key.kind != registry.KindRule {
			return false
		}
		for _, s := range []*snapshot{before, next} {
			rule, there := s.policy.Rule(key.name)
			if !there {
				continue
			}
			if !rule.ToOne() {
				return false
			}
			scope[rule.To] = struct{}{}
		}
		return true
	}
	for key := range c.put {
		if !add(key) {
			return nil
		}
	}
	for _, key := range c.deleted {
		if !add(key) {
			return nil
		}
	}
	if c.bundles || len(scope) == 0 {
		return nil
	}
	return scope
}

// readInterest is what an agent says that it must have at once.
func readInterest(in *pb.Interest) (names, error) {
	if in == nil || in.GetEverything() || len(in.GetServices()) > maxInterest {
		return nil, nil
	}
	out := make(names, len(in.GetServices()))
	for _, name := range in.GetServices() {
		if len(name) > maxEndpointText {
			return nil, fault.Invalidf("interest in a service with a name of %d bytes", len(name))
		}
		out[name] = struct{}{}
	}
	return out, nil
}

// interest replaces what a stream must be sent at once. It is brought up to date
// and told so: from then on no change of those services passes it by.
func (h *hub) interest(l *link, in *pb.Interest) error {
	wants, err := readInterest(in)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	l.wants, l.confirm = wants, in.GetNumber()
	l.hurry()
	return nil
}

// hurry makes the stream send all it lacks; hub.mu is held.
func (l *link) hurry() {
	l.rush = true
	l.poke()
}

// concern tells one stream of a new revision; it reports whether to send it now.
// hub.mu is held.
func (h *hub) concern(l *link, scope names) bool {
	if l.wants.meets(scope) {
		l.due, l.behind = h.snap.revision, time.Time{}
		return true
	}
	if l.behind.IsZero() {
		l.behind = h.now()
	}
	if h.snap.revision-l.sent >= l.lag {
		l.hurry()
	}
	if !h.ticking {
		h.ticking = true
		time.AfterFunc(lagTick, h.catchUp)
	}
	return false
}

// catchUp brings agents up to date that have been behind for long enough.
func (h *hub) catchUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	waiting := false
	for _, l := range h.links {
		switch {
		case l.behind.IsZero():
		case h.now().Sub(l.behind) >= l.patience:
			l.behind = time.Time{}
			l.hurry()
		default:
			waiting = true
		}
	}
	if h.ticking = waiting && !h.stopped; h.ticking {
		time.AfterFunc(lagTick, h.catchUp)
	}
}

// patience is how long a stream may be behind: not all the same time, so that
// they do not catch up together.
func patience() time.Duration { return lagLeast + rand.N(lagLeast*3/2) }

// lag is how many revisions a stream may be behind: not all the same, or one
// change would make a thousand agents catch up.
func lag() uint64 { return lagMost/2 + rand.Uint64N(lagMost/2) }

// holds is the revision that a node enforces as far as it is concerned; hub.mu
// is held.
func (h *hub) holds(l *link) uint64 {
	if !l.fresh && l.acked >= l.due {
		return h.snap.revision
	}
	return l.acked
}

// scopeAt is what the change with a revision concerns; hub.mu is held.
func (h *hub) scopeAt(revision uint64) names {
	missing := h.snap.revision - revision
	if revision > h.snap.revision || missing >= uint64(len(h.ring)) {
		return nil
	}
	return h.ring[uint64(len(h.ring))-missing-1].scope
}

// current is the message that confirms an interest.
func current(number uint64) (*api.Frame, error) {
	return api.NewFrame(&pb.SyncResponse{Message: &pb.SyncResponse_Current{Current: &pb.Current{Interest: number}}})
}
