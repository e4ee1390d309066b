package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// swapLimit is how long an enforcement point may take to swap before the ack
// goes to the server without it, naming it.
const swapLimit = 8 * time.Second

// points are the attached enforcement points. A change is acked to the server
// once every point whose slice it altered has swapped; the server takes an ack
// as being for all revisions before it too, so they go out in order.
type points struct {
	identify func(*world, attest.Peer, registry.Attributes) []spiffe.ID
	acked    func(*pb.Ack) // called with mu held, in order; must not block
	interest *interest
	needed   func([]*pb.Provider) // whose keys the points need; as acked
	limit    time.Duration
	log      *pb.DecisionLog // what points are to report for the decision log

	mu       sync.Mutex
	all      map[*point]struct{} // guarded by mu, as is all below and in each point
	pending  []change            // by revision
	keys     map[string][]byte   // of providers, by URL; replaced, not changed
	revision uint64              // newest pushed
	mark     uint64              // of that revision
	cut      slicing
	compared comparison
	faults   []string // of the world at that revision
	absent   map[attest.Process]absence
}

// change is a revision that waits for enforcement points.
type change struct {
	revision, mark uint64
	timer          *time.Timer
	expired        bool
}

// point is one attached enforcement point.
type point struct {
	peer   attest.Peer
	attrs  registry.Attributes
	open   *pb.Open
	wake   chan struct{} // capacity 1
	inside bool          // decides in this process, and ends with it

	ids      []spiffe.ID
	services []string
	slice    *pb.Slice // at revision 0: what the point should have
	cut      *pb.Slice // that it was made from, without IDs
	by       *world    // of one inside, in place of what a slice holds: where its policy is
	wanted   uint64    // revision of that slice
	due      uint64    // first revision that the point may lack, unless it has acked wanted
	first    uint64    // revision of the first slice, before which it was closed
	returned bool      // it was not closed before: it served before the agent's restart
	unsent   bool      // the slice has not been handed to the stream
	acked    uint64
	sent     uint64 // revision handed to the stream
	stuck    bool   // did not swap in time; waited for no more until it does
	fault    string
	catalog  bool // the directory is to be sent
	register *pb.Register
	told     map[string][]byte // keys that were handed to the stream, by URL
	named    []*pb.Provider    // of the slice that was handed to the stream last
}

func (p *point) name() string {
	service := "no service"
	if len(p.services) > 0 {
		service = strings.Join(p.services, ",")
	}
	return fmt.Sprintf("%s (pid %d)", service, p.peer.PID)
}

func (p *point) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// late reports whether the point has yet to swap to what a revision needs, or to
// something newer. The first slice of a new one is waited for by nobody: until
// then it lets nothing in.
func (p *point) late(revision uint64) bool {
	return p.open.GetServes() && !p.stuck && (p.wanted != p.first || p.returned) && p.acked < p.wanted && p.due <= revision
}

// attach adds a point under the world of now.
func (s *points) attach(current func() *world, peer attest.Peer, attrs registry.Attributes, open *pb.Open) *point {
	p := &point{peer: peer, attrs: attrs, open: open, wake: make(chan struct{}, 1), catalog: open.GetCalls()}
	s.enter(current, p)
	return p
}

func (s *points) enter(current func() *world, p *point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := current() // with the lock, so that no push comes in between
	s.place(w, p)
	p.first = p.wanted
	p.returned = p.open.GetServes() && !p.inside && s.back(p.peer.Process())
	s.all[p] = struct{}{}
	s.need()
	p.poke()
}

// place computes a point's slice; it reports whether it differs.
func (s *points) place(w *world, p *point) bool {
	before, former := p.ids, p.services
	p.ids = s.identify(w, p.peer, p.attrs)
	p.services = w.servicesOf(p.ids)
	var names []string
	if p.open.GetServes() {
		names = p.services
		s.interest.want(names)
	}
	if p.inside {
		return s.placeInside(w, p, former)
	}
	shared := s.cut.of(w, names)
	if shared == p.cut && slices.Equal(before, p.ids) {
		return false
	}
	p.cut = shared
	own := &pb.Slice{
		Schema: shared.Schema, TrustDomain: shared.TrustDomain, Services: shared.Services, Rules: shared.Rules,
		Named: shared.Named, Node: shared.Node, Dev: shared.Dev, Providers: shared.Providers, Log: s.log,
	}
	for _, id := range p.ids {
		own.Ids = append(own.Ids, id.String())
	}
	if p.slice != nil && sameSlice(p.slice, own) {
		return false
	}
	p.want(w, own)
	return true
}

// want makes a slice what the point should have.
func (p *point) want(w *world, own *pb.Slice) {
	if p.acked >= p.wanted || p.wanted == p.first && !p.returned {
		p.due = w.revision
	}
	p.slice, p.wanted, p.unsent = own, w.revision, true
	maps.DeleteFunc(p.told, func(url string, _ []byte) bool { // keys of others the point forgets
		return !slices.ContainsFunc(own.Providers, func(m *pb.Provider) bool { return m.GetJwksUrl() == url })
	})
}

// push brings a world to every point that it concerns, and acks its revision
// once they have swapped.
func (s *points) push(w *world) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if former := s.cut.from; former != nil && w.behind(former) {
		s.startOver()
	}
	s.cut.move(w)
	s.compared = comparison{}
	s.spread(w)
	s.revision, s.mark, s.faults = w.revision, w.mark, w.faults()
	c := change{revision: w.revision, mark: w.mark}
	c.timer = time.AfterFunc(s.limit, func() { s.expire(w.revision) })
	s.pending = append(s.pending, c)
	s.flush()
}

// refresh brings the world to the points again after claims have changed.
func (s *points) refresh(current func() *world) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spread(current())
}

func (s *points) spread(w *world) {
	changed := false
	for p := range s.all {
		if s.place(w, p) {
			changed = true
			p.poke()
		}
	}
	if changed {
		s.need()
	}
}

// flush acks the revisions that wait for nobody any more. The caller holds mu.
func (s *points) flush() {
	done := 0
	for _, c := range s.pending {
		if !c.expired && s.waiting(c.revision) {
			break
		}
		c.timer.Stop()
		done++
	}
	if done == 0 {
		return
	}
	last := s.pending[done-1]
	s.pending = slices.Delete(s.pending, 0, done)
	s.acked(&pb.Ack{Revision: last.revision, Mark: last.mark, Errors: s.reasons()})
}

func (s *points) waiting(revision uint64) bool {
	for p := range s.all {
		if p.late(revision) {
			return true
		}
	}
	return s.missing()
}

// reasons names what is not in force. The caller holds mu.
func (s *points) reasons() []string {
	out := append(slices.Clone(s.faults), s.absentees()...)
	for p := range s.all {
		switch {
		case !p.open.GetServes():
		case p.fault != "":
			out = append(out, p.name()+": "+p.fault)
		case p.stuck:
			out = append(out, p.name()+": has not swapped")
		}
	}
	slices.Sort(out)
	return out
}

func (s *points) expire(revision uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.all {
		if p.late(revision) {
			p.stuck = true
		}
	}
	s.giveUp()
	for i := range s.pending {
		if s.pending[i].revision <= revision {
			s.pending[i].expired = true
		}
	}
	s.flush()
}

// settle acks the newest revision anew, on a new stream, if it waits for nobody.
// Changes that are pending will be acked by themselves.
func (s *points) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 && s.revision > 0 {
		s.acked(&pb.Ack{Revision: s.revision, Mark: s.mark, Errors: s.reasons()})
	}
}

// ack records that a point enforces a revision, or why it cannot.
func (s *points) ack(p *point, ack *pb.PolicyAck) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ack.GetRevision() > p.sent {
		return // of a slice it never got
	}
	p.acked = max(p.acked, ack.GetRevision())
	p.due = max(p.due, p.acked+1)
	p.fault = cut(ack.GetError(), 256)
	if p.acked >= p.wanted {
		p.stuck = false
	}
	s.flush()
}

// detach removes a point that is gone; nobody waits for it.
func (s *points) detach(p *point) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, p)
	s.need()
	s.flush()
}

// outgoing is what a point's stream has to send next; nil for nothing.
func (s *points) outgoing(p *point, directory func() *pb.DirectoryView) *pb.EnforceResponse {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.unsent && (!p.open.GetServes() || s.interest.covers(p.services)) {
		p.sent, p.unsent, p.named = p.wanted, false, p.slice.Providers
		out := &pb.Slice{
			Revision: p.wanted, Schema: p.slice.Schema, TrustDomain: p.slice.TrustDomain, Ids: p.slice.Ids,
			Services: p.slice.Services, Rules: p.slice.Rules, Named: p.slice.Named, Node: p.slice.Node, Dev: p.slice.Dev,
			Providers: p.slice.Providers, Log: p.slice.Log,
		}
		return &pb.EnforceResponse{Message: &pb.EnforceResponse_Slice{Slice: out}}
	}
	if keys := s.untold(p); keys != nil {
		return &pb.EnforceResponse{Message: &pb.EnforceResponse_Keys{Keys: keys}}
	}
	if p.catalog {
		p.catalog = false
		return &pb.EnforceResponse{Message: &pb.EnforceResponse_Directory{Directory: directory()}}
	}
	return nil
}

// direct tells the callers among the points that the directory has changed.
func (s *points) direct() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.all {
		if p.open.GetCalls() {
			p.catalog = true
			p.poke()
		}
	}
}

// covered is told when the server has confirmed an interest.
func (s *points) covered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.all {
		if p.unsent {
			p.poke()
		}
	}
}

// services is those that attached points answer for.
func (s *points) services() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for p := range s.all {
		if p.open.GetServes() {
			out = append(out, p.services...)
		}
	}
	return out
}

// count is how many points are attached.
func (s *points) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}
