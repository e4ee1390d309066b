package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// How often it is looked at whether a key for JWT-SVIDs can go on: seldom, and
// soon again after one has been published or is waited for.
const (
	jwtKeysEvery   = time.Minute
	jwtKeysChanged = time.Second
	jwtKeysWaiting = 2 * time.Second
)

// SignJWTs evaluates the rules again with what the server knows of the node and
// signs what they give, as SignWorkloads does.
func (s *Server) SignJWTs(ctx context.Context, node api.Caller, reqs []api.JWTRequest) ([]api.SignedJWT, error) {
	out := make([]api.SignedJWT, len(reqs))
	grants, revision, err := s.entitleAll(node, len(reqs), func(i int) api.CSR {
		r := reqs[i]
		return api.CSR{Rule: r.Rule, ID: r.ID, Attributes: r.Attributes, Err: r.Err}
	}, func(i int, err error) { out[i].Err = err })
	if err != nil || len(grants) == 0 {
		return out, err
	}
	batch := make([]ca.JWTRequest, len(grants))
	for j, g := range grants {
		batch[j] = ca.JWTRequest{
			ID: g.match.ID, Audience: reqs[g.place].Audience, TTL: g.match.TTL,
			Requester: node.ID.String(), Rule: g.match.Rule, Revision: revision,
		}
	}
	for j, result := range s.ca.SignJWTs(ctx, batch) {
		if out[grants[j].place].Err = result.Err; result.Err == nil {
			out[grants[j].place].Token = result.SVID.Token()
		}
	}
	return out, nil
}

// newJWTRingOp makes the first keys and the operation that keeps them sealed in
// the store.
func newJWTRingOp(cfg Config) (registry.Op, error) {
	first, err := ca.AdvanceJWTRing(nil, ca.JWTRingConfig{
		TrustDomain: cfg.TrustDomain, KEK: cfg.KEK, Now: cfg.Now(), RS256: len(cfg.RS256Audiences) > 0, WIT: cfg.WIT,
	})
	if err != nil {
		return registry.Op{}, err
	}
	return registry.Put(registry.JWTRingKey, first.Ring), nil
}

// useJWTRing gives the CA the keys of a snapshot. Keys that cannot be used leave
// the former ones in force: tokens go on being signed while somebody looks.
func (s *Server) useJWTRing(snap *snapshot) {
	if snap.jwtRing.Value == nil {
		return // of a store older than JWT-SVIDs; keepJWTKeys makes some
	}
	if err := s.ca.UseJWTRing(snap.jwtRing.Value); err != nil {
		s.log.Error("JWT keys not usable", "error", err)
	}
}

// keepJWTKeys takes the keys for JWT-SVIDs through their phases, until ctx ends.
// What fails is tried again: the present keys serve meanwhile.
func (s *Server) keepJWTKeys(ctx context.Context) error {
	var named []string
	for {
		next, err := s.advanceJWTKeys(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("JWT keys not advanced", "error", err)
		}
		if len(next.Laggards) > 0 && !slices.Equal(next.Laggards, named) {
			s.log.Warn("JWT key waits for nodes that do not know it", "nodes", next.Laggards)
		}
		named = next.Laggards
		wait := jwtKeysEvery
		switch {
		case len(next.Laggards) > 0 || s.settling():
			wait = jwtKeysWaiting
		case next.Changed && err == nil:
			wait = jwtKeysChanged
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// advanceJWTKeys writes what the ring must be now, if that is another than it
// is. It is a change like any other: a revision of its own takes the new bundle
// to every agent.
func (s *Server) advanceJWTKeys(ctx context.Context) (ca.JWTAdvance, error) {
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	case <-ctx.Done():
		return ca.JWTAdvance{}, nil
	}
	snap := s.snap()
	revision := snap.revision + 1
	next, err := ca.AdvanceJWTRing(snap.jwtRing.Value, ca.JWTRingConfig{
		TrustDomain: snap.trustDomain, KEK: s.cfg.KEK, Now: s.cfg.Now(), RS256: len(s.cfg.RS256Audiences) > 0, WIT: s.cfg.WIT,
		Revision: revision, Laggards: s.hub.laggards, Refresh: refreshHint, SignedUntil: s.ca.JWTSignedUntil,
		Settling: s.settling(),
	})
	if err != nil || !next.Changed {
		return next, err
	}
	return next, s.writeJWTKeys(ctx, snap, revision, next.Ring)
}

// settling says that this server has just started: nodes that have not come back
// yet must not be taken for none.
func (s *Server) settling() bool { return s.cfg.Now().Before(s.started.Add(settleTime)) }

func (s *Server) writeJWTKeys(ctx context.Context, snap *snapshot, revision uint64, ring []byte) error {
	if err := s.writable(); err != nil {
		return err
	}
	before := registry.IfAbsent(registry.JWTRingKey)
	if snap.jwtRing.Value != nil {
		before = registry.IfUnchanged(snap.jwtRing)
	}
	txn := registry.Txn{
		If: []registry.Condition{registry.IfUnchanged(snap.counter), before},
		Do: []registry.Op{registry.Put(revisionKey, revisionValue(revision)), registry.Put(registry.JWTRingKey, ring)},
	}
	event := audit.Event{Kind: audit.Rotated, Actor: s.id.String(), Object: "JWT keys of " + snap.trustDomain.String(), Revision: revision}
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	switch {
	case fault.Is(err, fault.Conflict):
		return errors.Join(fmt.Errorf("another change came first: %w", err), s.arriveLatest(ctx))
	case err != nil:
		return err
	}
	return s.arrive(ctx, version)
}
