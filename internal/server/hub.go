package server

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const (
	// ringSize is how many revisions an agent may lag before it gets everything
	// anew. The ring is every agent's queue at once: a slow one costs no memory.
	ringSize = 256
	// liveGrace is how long after its stream ended a node still counts as live:
	// its enforcement points go on with what they have, so a change waits for it.
	liveGrace = 3 * time.Second
)

// hub fans changes out to the sync streams of the connected agents. Publishing
// marshals once and wakes; each stream's own goroutine takes what it lacks.
type hub struct {
	now func() time.Time

	mu       sync.Mutex
	links    map[string]*link // by node; guarded by mu, as is all below
	lost     map[string]lost  // nodes whose stream has ended, for liveGrace
	snap     *snapshot        // the newest published
	ring     []*message       // deltas, gapless, the last one leads to snap.revision
	summed   sums             // of the ring's ends
	dir      *api.Frame       // the newest directory, shared by all streams
	dirRev   uint64           // moves with dir
	stopped  bool
	ticking  bool               // catchUp will come
	waits    map[*wait]struct{} // changes that wait for acks
	answers  map[uint64]*gather // queries that wait for answers
	queries  uint64             // the last query's number
	other    *otherHistory      // that a node came with
	onChange func(node string)  // called without mu when a node comes or goes
}

// lost is a node whose stream has ended.
type lost struct {
	at    time.Time
	wants names
}

// link is the stream of one agent.
type link struct {
	node    string
	remote  string
	version string
	since   time.Time
	wake    chan struct{} // capacity 1
	to      api.Link

	sending sync.Mutex // held while something is written; taken before hub.mu, or tried

	// guarded by hub.mu
	fresh    bool   // has nothing that a delta could build on
	strange  bool   // came with another history, and has not acked ours yet
	sent     uint64 // the last revision handed to the stream
	acked    uint64
	faults   []string  // of the last ack
	wants    names     // services whose changes it must have at once
	confirm  uint64    // number of the interest that it is to be told of; 0: none
	due      uint64    // the last revision that concerns it
	rush     bool      // is to be sent all it lacks, due or not
	behind   time.Time // since when it lacks something that is not due
	patience time.Duration
	lag      uint64 // how many revisions it may be behind
	dirSent  uint64
	outbox   []*api.Frame // queries, few and small
	flight   flight
	cut      error // why the stream must end
	lost     bool  // it ended by itself: the node is expected back
	lastSeen time.Time
}

func newHub(now func() time.Time, first *snapshot, onChange func(string)) *hub {
	return &hub{
		now:      now,
		links:    make(map[string]*link),
		lost:     make(map[string]lost),
		snap:     first,
		waits:    make(map[*wait]struct{}),
		answers:  make(map[uint64]*gather),
		onChange: onChange,
	}
}

// join adds the stream of a node; an older one of the same node is cut.
func (h *hub) join(node, remote string, hello *pb.SyncHello, to api.Link) (*link, error) {
	wants, err := readInterest(hello.GetInterest())
	if err != nil {
		return nil, err
	}
	l := &link{
		node: node, remote: remote, to: to, version: hello.GetVersion(), since: h.now(),
		wake: make(chan struct{}, 1), sent: hello.GetRevision(), lastSeen: h.now(),
		wants: wants, confirm: hello.GetInterest().GetNumber(), rush: true, patience: patience(), lag: lag(),
	}
	h.mu.Lock()
	l.due = h.snap.revision
	if l.strange = h.strange(hello); l.strange {
		h.note(otherHistory{node, hello.GetRevision(), h.snap.revision})
	}
	l.fresh = hello.GetRevision() == 0 || hello.GetEpoch() != h.snap.epoch || l.strange
	if old := h.links[node]; old != nil {
		old.cut = fault.Conflictf("another stream of node %s took over", node)
		old.poke()
	}
	if h.stopped {
		l.cut, l.lost = stopped(), true
	}
	h.links[node] = l
	delete(h.lost, node)
	h.mu.Unlock()
	h.onChange(node)
	return l, nil
}

// leave removes the stream, unless another has taken its place.
func (h *hub) leave(l *link) {
	h.mu.Lock()
	mine := h.links[l.node] == l
	if mine {
		delete(h.links, l.node)
		if l.cut == nil || l.lost {
			h.lost[l.node] = lost{h.now(), l.wants}
		}
		h.dropAnswers(l.node)
	}
	h.mu.Unlock()
	if mine {
		h.onChange(l.node)
	}
	l.sending.Lock() // whoever still writes must have done so before the stream ends
	defer l.sending.Unlock()
}

// cut ends the stream of a node, with a reason for it, at once.
func (h *hub) cut(node string, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.lost, node)
	if l := h.links[node]; l != nil {
		l.cut = why
		l.poke()
	}
}

// end ends one stream, if nothing has yet.
func (h *hub) end(l *link, why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.cut == nil {
		l.cut, l.lost = why, true
	}
	l.poke()
}

// stop ends every stream, and those that come later.
func (h *hub) stop() {
	h.mu.Lock()
	h.stopped = true
	links := slices.Collect(maps.Values(h.links))
	h.mu.Unlock()
	for _, l := range links {
		h.end(l, stopped())
	}
}

func stopped() error { return api.Away{Err: errors.New("the server is stopping")} }

// publish makes snap the newest. delta leads there from the one before; nil says
// that nothing leads there, and everybody gets everything.
func (h *hub) publish(snap *snapshot, delta *message) {
	for _, c := range h.offer(snap, delta) {
		c.send(h)
	}
}

// offer wakes the streams that have something to send now, except those that it
// returns: the caller is to write to them.
func (h *hub) offer(snap *snapshot, delta *message) []claim {
	h.mu.Lock()
	defer h.mu.Unlock()
	moved := snap.revision != h.snap.revision || snap.epoch != h.snap.epoch || snap.mark != h.snap.mark
	h.snap = snap
	switch {
	case delta != nil:
		h.ring = append(h.ring, delta)
		if len(h.ring) > 2*ringSize {
			h.ring = append([]*message(nil), h.ring[len(h.ring)-ringSize:]...)
		}
	case moved:
		h.ring = nil
		for _, l := range h.links {
			l.fresh, l.due = true, snap.revision
			l.poke()
		}
		return nil
	default:
		return nil
	}
	var claims []claim
	for _, l := range h.links {
		if !h.concern(l, delta.scope) {
			continue
		}
		if c, ok := h.claim(l); ok {
			claims = append(claims, c)
		} else {
			l.poke()
		}
	}
	return claims
}

// direct makes dir the newest directory; nil: none until the next.
func (h *hub) direct(dir *api.Frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dir = dir
	h.dirRev++
	for _, l := range h.links {
		l.poke()
	}
}

// next is what the stream has to send now; nothing means: wait for wake. full
// is set when the stream must send the whole state of that snapshot first. The
// caller holds l.sending until it has sent all of it.
func (h *hub) next(l *link) (full *snapshot, out []*api.Frame, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.cut != nil {
		return nil, nil, l.cut
	}
	deltas, ok := h.since(l.sent)
	switch {
	case l.fresh, !ok:
		full = h.snap
		l.flight.change(unknownSize)
		l.caughtUp(h.snap.revision)
	case l.rush, l.due > l.sent:
		if out, err = h.summed.of(deltas); err != nil {
			return nil, nil, err
		}
		for _, frame := range out {
			l.flight.change(frame.Len())
		}
		l.caughtUp(h.snap.revision)
	}
	if l.confirm != 0 {
		frame, err := current(l.confirm)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, frame)
		l.flight.other(frame.Len())
		l.confirm = 0
	}
	if h.dir != nil && l.dirSent != h.dirRev {
		out = append(out, h.dir)
		l.dirSent = h.dirRev
		l.flight.other(h.dir.Len())
	}
	for _, f := range l.outbox {
		out = append(out, f)
		l.flight.other(f.Len())
	}
	l.outbox = nil
	return full, out, nil
}

// since is the deltas that lead from revision to the newest.
func (h *hub) since(revision uint64) ([]*message, bool) {
	missing := h.snap.revision - revision
	if revision > h.snap.revision || missing > uint64(len(h.ring)) {
		return nil, false
	}
	return h.ring[uint64(len(h.ring))-missing:], true
}

// ack records that a node enforces a revision.
func (h *hub) ack(l *link, ack *pb.Ack, faults []string) {
	revision := ack.GetRevision()
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now() // once: it is a system call, and there is an ack of each node
	l.lastSeen = now
	if h.links[l.node] != l || revision > h.snap.revision {
		return // a stream that was replaced, or a revision that we never sent
	}
	if mark, known := h.markOf(revision); l.strange && (!known || mark != ack.GetMark()) {
		return // what it held before we sent it ours
	}
	l.strange = false
	if revision >= l.acked {
		l.acked, l.faults = revision, faults
	}
	if revision == l.sent {
		l.flight.landed()
	}
	for w := range h.waits {
		if revision >= w.revision {
			w.acked(l.node, faults, now)
		}
	}
}

// poke wakes the stream's goroutine; a pending wake is enough.
func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// linkState is what operators see of a stream.
type linkState struct {
	revision uint64
	version  string
	remote   string
	lastSeen time.Time
}

// state is a node's stream, and whether there is one.
func (h *hub) state(node string) (linkState, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[node]
	if l == nil {
		return linkState{}, false
	}
	return linkState{revision: h.holds(l), version: l.version, remote: l.remote, lastSeen: l.lastSeen}, true
}

// connected is how many nodes have a stream.
func (h *hub) connected() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.links)
}

// isCurrent says whether the stream is still the one of its node.
func (h *hub) isCurrent(l *link) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[l.node] == l
}
