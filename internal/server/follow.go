package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/run"
)

// follow keeps the snapshot up to date until ctx ends: by watch, and by a new
// range when the watch cannot go on. While the store is away the snapshot
// stays as it is, and requests go on being served from it.
func (s *Server) follow(ctx context.Context) error {
	backoff := run.Backoff{Min: 50 * time.Millisecond, Max: 2 * time.Second}
	for {
		err := s.watch(ctx, &backoff)
		if ctx.Err() != nil {
			return nil
		}
		s.following(err)
		s.log.Warn("watch of the store interrupted", "error", err)
		if backoff.Wait(ctx) != nil {
			return nil
		}
		if err := s.reload(ctx); err != nil && ctx.Err() == nil {
			s.following(err)
			s.log.Warn("store not read", "error", err)
		}
	}
}

// watch applies batches from the snapshot's version on until the watch ends.
func (s *Server) watch(ctx context.Context, backoff *run.Backoff) error {
	w, err := s.cfg.Store.Watch(ctx, "", s.snap().version)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			return err
		}
		backoff.Reset()
		next, c, err := s.snap().advance(batch, s.cfg.Now())
		if err != nil {
			// Something a newer version wrote. What we hold is consistent, so
			// we keep it; the reload will say the same until we are upgraded.
			return fmt.Errorf("store version %s: %w", batch.Version, err)
		}
		if err := s.adopt(next, c); err != nil {
			return err
		}
	}
}

// reload takes the whole store anew.
func (s *Server) reload(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, rangeLimit)
	defer cancel()
	next, _, err := load(limit, s.cfg.Store, s.cfg.Now())
	if err != nil {
		return err
	}
	now := s.snap()
	if next.epoch == now.epoch && (next.revision < now.revision || next.revision == now.revision && next.mark != now.mark) {
		// A store that went back in time. Agents hold what we showed them, so
		// nothing older may be shown under the same epoch.
		return fault.Conflictf("the store is at revision %d of another history, this server at %d", next.revision, now.revision)
	}
	if next.trustDomain != now.trustDomain {
		return fault.Conflictf("the store is now of trust domain %s", next.trustDomain)
	}
	s.following(nil)
	s.confirm()
	c := change{admins: true}
	for name := range now.members {
		c.nodes = append(c.nodes, name)
	}
	s.useJWTRing(next)
	s.install(next, nil, c)
	return nil
}

// adopt makes the next snapshot current and tells the agents.
func (s *Server) adopt(next *snapshot, c change) error {
	now := s.snap()
	if !c.counts() {
		if next.revision != now.revision {
			return fault.Conflictf("revision %d came without a change", next.revision)
		}
		s.install(next, nil, c)
		return nil
	}
	if next.revision != now.revision+1 {
		return fault.Conflictf("revision %d came after %d", next.revision, now.revision)
	}
	if c.bundles {
		s.useJWTRing(next) // before the bundle goes out
	}
	delta, err := newMessage(s.deltaOf(next, c), scopeOf(now, next, c))
	if err != nil {
		return err
	}
	delta.base = now.mark
	s.install(next, delta, c)
	return nil
}

// install swaps the snapshot and wakes everybody it concerns. The order is:
// readers first, then the streams, then those who wait for the revision.
func (s *Server) install(next *snapshot, delta *message, c change) {
	before := s.current.Swap(next)
	s.hub.publish(next, delta)
	for _, name := range c.nodes {
		err := next.member(name)
		if old, known := before.members[name]; err == nil && known && old.node.KeyHash != next.members[name].node.KeyHash {
			// Whoever is connected under the old key is another machine.
			err = otherKey(name)
		}
		if err != nil {
			s.hub.cut(name, err)
			s.directory.forget(name)
		}
	}
	if c.admins && s.remote != nil {
		s.remote.Sweep()
	}
	if c.touches(registry.KindFederation) || delta == nil && next.revision != before.revision {
		s.exchange.poller.Set(next.federations)
	}
	if delta == nil || c.touches(registry.KindService, registry.KindIdentity, registry.KindNode) {
		s.directory.touch()
	}
	s.metrics.revision.Set(float64(next.revision))
	s.arrived.set(next.revision, next.version)
}

// deltaOf is a change as agents are told of it.
func (s *Server) deltaOf(next *snapshot, c change) *pb.Delta {
	delta := &pb.Delta{Revision: next.revision, Mark: next.mark}
	for _, object := range c.put {
		delta.Put = append(delta.Put, object)
	}
	for _, key := range c.deleted {
		delta.Delete = append(delta.Delete, key.pb())
	}
	if c.bundles {
		delta.Bundles = s.bundles(next)
	}
	return delta
}

// arrival lets changes wait until this server's own snapshot has them.
type arrival struct {
	mu       sync.Mutex
	revision uint64
	version  registry.Version
	moved    chan struct{} // closed and replaced by each set
}

func newArrival() *arrival { return &arrival{moved: make(chan struct{})} }

func (a *arrival) set(revision uint64, version registry.Version) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.revision, a.version = revision, version
	close(a.moved)
	a.moved = make(chan struct{})
}

// wait blocks until the snapshot has everything up to the store's version.
func (a *arrival) wait(ctx context.Context, version registry.Version) error {
	for {
		a.mu.Lock()
		here, moved := a.version >= version, a.moved
		a.mu.Unlock()
		if here {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awayOf says whether an error means that the store cannot take a change now.
func awayOf(err error) bool {
	return errors.Is(err, registry.ErrAway) || errors.Is(err, registry.ErrUncertain) || errors.Is(err, context.DeadlineExceeded)
}
