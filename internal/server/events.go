package server

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const (
	maxWatchers   = 64
	watcherBuffer = 1024
	// watchDecisionsEvery is how often agents are asked for new decisions, and
	// only while somebody watches them.
	watchDecisionsEvery = 500 * time.Millisecond
	watchDecisions      = 200
)

// events fans what happens out to operators who watch.
type events struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{} // guarded by mu
}

type watcher struct {
	out  chan *pb.WatchEvent
	slow bool // guarded by events.mu; out is closed then
}

func newEvents() *events { return &events{watchers: make(map[*watcher]struct{})} }

func (e *events) publish(event *pb.WatchEvent, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.watchers) == 0 {
		return
	}
	event = proto.CloneOf(event)
	event.TimeUnixNano = now.UnixNano()
	for w := range e.watchers {
		select {
		case w.out <- event:
		default:
			w.slow = true
			delete(e.watchers, w)
			close(w.out)
		}
	}
}

func (e *events) add() (*watcher, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.watchers) >= maxWatchers {
		return nil, fault.Conflictf("%d watchers already", maxWatchers)
	}
	w := &watcher{out: make(chan *pb.WatchEvent, watcherBuffer)}
	e.watchers[w] = struct{}{}
	return w, nil
}

func (e *events) remove(w *watcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.watchers, w)
}

// Watch sends events until ctx ends, the receiver fails or falls behind.
func (s *Server) Watch(ctx context.Context, req *pb.WatchRequest, send func(*pb.WatchEvent) error) error {
	all := !req.GetChanges() && !req.GetDecisions() && !req.GetNodes()
	w, err := s.events.add()
	if err != nil {
		return err
	}
	defer s.events.remove(w)
	var ask <-chan time.Time
	if all || req.GetDecisions() {
		tick := time.NewTicker(watchDecisionsEvery)
		defer tick.Stop()
		ask = tick.C
	}
	after := s.cfg.Now()
	known := map[string]bool{}
	for {
		select {
		case event, ok := <-w.out:
			if !ok {
				return fault.Conflictf("the watch fell %d events behind and was ended", watcherBuffer)
			}
			wanted := all || event.GetChange() != nil && req.GetChanges() || event.GetNode() != nil && req.GetNodes()
			if !wanted {
				continue
			}
			if err := send(event); err != nil {
				return err
			}
		case <-ask:
			if known, err = s.sendDecisions(ctx, after, known, send); err != nil {
				return err
			}
		case <-s.stopping:
			return stopped()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendDecisions asks the agents for their latest decisions and sends those made
// since the watch began that were not sent yet, oldest first.
func (s *Server) sendDecisions(ctx context.Context, after time.Time, known map[string]bool, send func(*pb.WatchEvent) error) (map[string]bool, error) {
	decisions, err := s.hub.ask(ctx, &pb.WhyQuery{Limit: watchDecisions})
	if err != nil {
		return known, err
	}
	snap := s.snap()
	next := make(map[string]bool, len(decisions))
	for i := len(decisions) - 1; i >= 0; i-- {
		d := decisions[i]
		next[d.GetId()] = true
		if known[d.GetId()] || d.GetTimeUnixNano() < after.UnixNano() {
			continue
		}
		event := &pb.WatchEvent{TimeUnixNano: d.GetTimeUnixNano(), Event: "decided", Decision: snap.explained(d)}
		if err := send(event); err != nil {
			return next, err
		}
	}
	return next, nil
}
