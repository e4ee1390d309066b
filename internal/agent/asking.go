package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

const (
	maxAsking   = 1024             // processes that ask
	maxOfUser   = 256              // of them, of one user
	askingIdle  = 10 * time.Minute // after which a silent one is forgotten
	askingSweep = 30 * time.Second
	refusalHeld = time.Second // for how long a refusal is not looked into again
)

// asking are the enforcement points that do not decide themselves: Envoy, nginx
// and others that ask for each request. Each is a point like those that attach,
// with its policy compiled here instead of there: a change is acked when it is
// what the next question is answered by.
type asking struct {
	a    *Agent
	live sync.WaitGroup

	mu     sync.Mutex
	all    map[attest.Process]*asker // guarded by mu
	closed bool                      // guarded by mu
}

// asker is one process that asks.
type asker struct {
	uid   uint32
	ready chan struct{} // closed when the rest is set
	err   error
	until time.Time // err stands for that long
	point *extauthz.Point
	hold  attest.Peer // our own reference to the process
	stop  context.CancelFunc
	used  atomic.Int64 // unix seconds
}

// Point implements extauthz.Desk.
func (s *asking) Point(ctx context.Context, caller attest.Peer) (*extauthz.Point, error) {
	now := s.a.cfg.Now()
	s.mu.Lock()
	w, known := s.all[caller.Process()]
	if known && w.failed(now) {
		known = false
	}
	if !known {
		switch {
		case s.closed:
			s.mu.Unlock()
			return nil, fault.Conflictf("the agent is stopping")
		case len(s.all) >= maxAsking:
			s.mu.Unlock()
			return nil, fault.Deniedf("%d processes ask already, which is the limit", maxAsking)
		case s.ofUser(caller.UID) >= maxOfUser:
			s.mu.Unlock()
			return nil, fault.Deniedf("%d processes of user %d ask already, which is the limit", maxOfUser, caller.UID)
		}
		w = &asker{ready: make(chan struct{}), uid: caller.UID}
		s.all[caller.Process()] = w
	}
	s.mu.Unlock()
	if !known {
		s.admit(ctx, w, caller)
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if w.err != nil {
		return nil, w.err
	}
	w.used.Store(now.Unix())
	return w.point, nil
}

// ofUser is how many processes of a user are known, those that were refused among
// them: nobody without an identity takes the places of those who have one. The
// caller holds mu.
func (s *asking) ofUser(uid uint32) (n int) {
	for _, w := range s.all {
		if w.uid == uid {
			n++
		}
	}
	return n
}

// failed reports whether the process was refused, long enough ago.
func (w *asker) failed(now time.Time) bool {
	select {
	case <-w.ready:
		return w.err != nil && !now.Before(w.until)
	default:
		return false
	}
}

// admit looks at a process and makes it a point, or says why it cannot be one.
func (s *asking) admit(ctx context.Context, w *asker, caller attest.Peer) {
	defer close(w.ready)
	now := s.a.cfg.Now()
	w.used.Store(now.Unix())
	if w.err = s.attach(ctx, w, caller); w.err != nil {
		w.until = now.Add(refusalHeld)
	}
}

// attach holds the process by a reference of our own, as its connections come and
// go, and puts its first slice in force before any question is answered.
func (s *asking) attach(ctx context.Context, w *asker, caller attest.Peer) error {
	a := s.a
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout) // others wait for it too
	defer cancel()
	hold, err := a.cfg.Processes.Find(caller.PID)
	if err != nil {
		return err
	}
	if hold.Process() != caller.Process() || hold.UID != caller.UID || hold.Exe != caller.Exe {
		release(hold)
		return fault.Deniedf("process %d is another one by now", caller.PID)
	}
	ev, err := a.evaluate(ctx, hold, true)
	as, _, _ := a.claims.of(hold)
	if err == nil && len(ev.Matches) == 0 {
		err = errNoIdentity(hold, as, ev)
	}
	if err != nil {
		release(hold)
		return err
	}
	p := &point{
		peer: hold, attrs: ev.Attributes, open: &pb.Open{As: as, Serves: true, Schema: policy.Schema},
		wake: make(chan struct{}, 1), inside: true,
	}
	a.points.enter(a.world.Load, p)
	w.hold = hold
	w.point = extauthz.NewPoint(extauthz.PointConfig{
		As: as, Stale: a.stale, Now: a.cfg.Now,
		Report: func(d *pb.Decision) { a.report(p, []*pb.Decision{d}) },
		Missing: func(provider, keyID string) {
			a.missingKey(p, &pb.MissingKey{Provider: provider, KeyId: keyID})
		},
		Count: a.flows.one,
	})
	for !s.rule(w, p) {
		select {
		case <-p.wake:
		case <-ctx.Done():
			a.points.detach(p)
			release(hold)
			return fault.Hint(fault.Deniedf("the server has not said yet that this node is up to date on what process %d answers for", hold.PID), "kith status")
		}
	}
	a.cfg.Log.Info("asking enforcement point attached", "pid", hold.PID, "uid", hold.UID, "as", as, "services", p.services)
	// It lives until the sweep or the end of the agent, not until its first question.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	s.live.Go(func() {
		defer release(hold)
		defer a.points.detach(p)
		for {
			select {
			case <-life.Done():
				a.cfg.Log.Info("asking enforcement point detached", "pid", hold.PID, "as", as)
				return
			case <-p.wake:
				s.rule(w, p)
			}
		}
	})
	return nil
}

// rule puts what the point is to have in force, and acks it; it reports whether
// there was something.
func (s *asking) rule(w *asker, p *point) (ruled bool) {
	for {
		next, keys := s.a.points.inForce(p)
		switch {
		case next != nil:
			ack := w.point.Rule(*next)
			if ack.GetError() != "" {
				s.a.cfg.Log.Error("policy not enforceable", "pid", p.peer.PID, "revision", ack.GetRevision(), "error", ack.GetError())
			}
			s.a.points.ack(p, ack)
			ruled = true
		case keys != nil:
			w.point.Learn(keys)
		default:
			return ruled
		}
	}
}

// one counts one request.
func (t *flowTable) one(f policy.Flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if tooLong(f) {
		t.uncounted++
		return
	}
	t.merge(f)
}

// run forgets processes that are gone or have been silent, until ctx ends.
func (s *asking) run(ctx context.Context) error {
	tick := time.NewTicker(askingSweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.closed = true
			s.mu.Unlock()
			s.sweep(func(*asker) bool { return false })
			s.live.Wait()
			return nil
		case <-tick.C:
			oldest := s.a.cfg.Now().Add(-askingIdle).Unix()
			s.sweep(func(w *asker) bool {
				return w.err == nil && w.used.Load() > oldest && s.a.cfg.Processes.Check(w.hold) == nil
			})
		}
	}
}

// sweep ends all that are not to be kept. One that is being looked at is waited
// for: it has been admitted to the map and would be forgotten otherwise.
func (s *asking) sweep(keep func(*asker) bool) {
	s.mu.Lock()
	askers := make(map[attest.Process]*asker, len(s.all))
	for who, w := range s.all {
		askers[who] = w
	}
	s.mu.Unlock()
	for who, w := range askers {
		<-w.ready
		if keep(w) {
			continue
		}
		s.mu.Lock()
		if s.all[who] == w {
			delete(s.all, who)
		}
		s.mu.Unlock()
		if w.stop != nil {
			w.stop()
		}
	}
}

// stale says that this node's own SVID has ended: what is known of policy is as
// old, and nothing is to be allowed by it.
func (a *Agent) stale() bool {
	at := a.standing.Load()
	return at == nil || !at.admitted() || at.expired(a.cfg.Now())
}
