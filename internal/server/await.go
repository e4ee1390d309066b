package server

import (
	"context"
	"maps"
	"slices"
	"time"
)

const (
	defaultWait = 10 * time.Second
	// nameAfter is when nodes that have not swapped are named in the log and to
	// whoever watches, while the change goes on waiting.
	nameAfter = time.Second
)

// wait is one change that waits until every live node enforces it. All of it is
// guarded by hub.mu, but for done.
type wait struct {
	revision uint64
	pending  map[string]struct{}
	affected int
	gone     []string // lost their stream and did not come back in time
	faults   []string // what enforcement points could not swap
	last     time.Time
	done     chan struct{} // closed when nothing is pending
}

func (w *wait) acked(node string, faults []string, now time.Time) {
	if _, ok := w.pending[node]; !ok {
		return
	}
	delete(w.pending, node)
	w.last = now
	for _, f := range faults {
		w.faults = append(w.faults, node+": "+f)
	}
	w.finish()
}

func (w *wait) finish() {
	if len(w.pending) == 0 {
		close(w.done)
	}
}

// effect is where a change is in force.
type effect struct {
	affected, acked int
	laggards        []string
	faults          []string
	last            time.Time // of the last ack; zero without any
}

// await blocks until every live node that the revision concerns has acked it, or
// the limit or ctx ends. named is called once with who is late after nameAfter.
func (h *hub) await(ctx context.Context, revision uint64, limit time.Duration, named func([]string)) effect {
	w := h.expect(revision)
	defer h.forget(w)
	late := time.NewTimer(nameAfter)
	defer late.Stop()
	end := time.NewTimer(limit)
	defer end.Stop()
	lost := time.NewTicker(liveGrace / 10)
	defer lost.Stop()
	for {
		select {
		case <-w.done:
			return h.effectOf(w)
		case <-lost.C:
			h.giveUpLost(w)
		case <-late.C:
			if e := h.effectOf(w); len(e.laggards) > 0 {
				named(e.laggards)
			}
		case <-end.C:
			return h.effectOf(w)
		case <-ctx.Done():
			return h.effectOf(w)
		}
	}
}

func (h *hub) expect(revision uint64) *wait {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	w := &wait{revision: revision, pending: make(map[string]struct{}), done: make(chan struct{})}
	scope := h.scopeAt(revision)
	for name, l := range h.links {
		if !l.wants.meets(scope) {
			continue
		}
		w.affected++
		if l.acked < revision {
			w.pending[name] = struct{}{}
			continue
		}
		w.last = now
		for _, f := range l.faults {
			w.faults = append(w.faults, name+": "+f)
		}
	}
	for name, was := range h.lost {
		if now.Sub(was.at) >= liveGrace {
			delete(h.lost, name)
			continue
		}
		if !was.wants.meets(scope) {
			continue
		}
		w.affected++
		w.pending[name] = struct{}{}
	}
	h.waits[w] = struct{}{}
	w.finish()
	return w
}

// giveUpLost stops waiting for nodes that went and did not come back.
func (h *hub) giveUpLost(w *wait) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := len(w.pending)
	for name := range w.pending {
		if _, here := h.links[name]; here {
			continue
		}
		if was, ok := h.lost[name]; ok && h.now().Sub(was.at) < liveGrace {
			continue
		}
		delete(w.pending, name)
		delete(h.lost, name)
		w.gone = append(w.gone, name)
	}
	if before > 0 {
		w.finish()
	}
}

func (h *hub) forget(w *wait) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waits, w)
}

func (h *hub) effectOf(w *wait) effect {
	h.mu.Lock()
	defer h.mu.Unlock()
	laggards := append(slices.Collect(maps.Keys(w.pending)), w.gone...)
	slices.Sort(laggards)
	slices.Sort(w.faults)
	return effect{
		affected: w.affected,
		acked:    w.affected - len(laggards),
		laggards: laggards,
		faults:   slices.Clone(w.faults),
		last:     w.last,
	}
}

// laggards are the live nodes that have not acked a revision, sorted.
func (h *hub) laggards(revision uint64) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for name, l := range h.links {
		if l.acked < revision {
			out = append(out, name)
		}
	}
	for name, was := range h.lost {
		if _, back := h.links[name]; !back && h.now().Sub(was.at) < liveGrace {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
