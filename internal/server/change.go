package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

const (
	// commitLimit is how long a call waits for a store that seems well: it takes
	// milliseconds unless the disk is very busy. awayLimit is how long when the
	// store is known to be away, or turns out to be.
	commitLimit = 10 * time.Second
	awayLimit   = 800 * time.Millisecond
	// arriveLimit is how long the own watch may take to bring what was committed.
	arriveLimit = 5 * time.Second
	// conflictTries is how often a change is worked out anew because another
	// server changed something in between.
	conflictTries = 5
)

// Apply changes applied state in one transaction and waits until every live
// node enforces it.
func (s *Server) Apply(ctx context.Context, by api.Actor, req *pb.ApplyRequest) (*pb.ChangeResult, error) {
	began := s.cfg.Now()
	p, revision, err := s.apply(ctx, by, req)
	if err != nil {
		return nil, err
	}
	changes, err := p.changes(req.GetDryRun())
	if err != nil {
		return nil, err
	}
	result := &pb.ChangeResult{Revision: revision, Changes: changes, Warnings: p.warnings}
	if req.GetDryRun() {
		result.Refused = p.refused(by)
	}
	if len(p.edits) > 0 && req.GetDryRun() {
		result.Replay, err = s.replay(ctx, p)
	}
	if len(p.edits) == 0 || req.GetDryRun() {
		return result, err
	}
	defer s.events.publish(&pb.WatchEvent{Event: "changed", Change: result}, s.cfg.Now())
	if req.GetNoWait() {
		return result, nil
	}
	limit := defaultWait
	if req.GetWait() != nil && req.GetWait().AsDuration() > 0 {
		limit = req.GetWait().AsDuration()
	}
	s.await(ctx, result, limit, began)
	return result, nil
}

// await fills in where the change is in force.
func (s *Server) await(ctx context.Context, result *pb.ChangeResult, limit time.Duration, began time.Time) {
	e := s.hub.await(ctx, result.GetRevision(), limit, func(late []string) {
		s.log.Warn("nodes are late with a change", "revision", result.GetRevision(), "nodes", late)
		s.events.publish(&pb.WatchEvent{Event: "late", Change: &pb.ChangeResult{
			Revision: result.GetRevision(), Laggards: late,
		}}, s.cfg.Now())
	})
	result.Affected, result.Acked = uint32(e.affected), uint32(e.acked)
	result.Laggards = e.laggards
	for _, f := range e.faults {
		result.Warnings = append(result.Warnings, "not enforced at "+f)
	}
	end := e.last
	if end.IsZero() {
		end = s.cfg.Now()
	}
	took := max(end.Sub(began), 0)
	result.Took = durationpb.New(took)
	s.metrics.propagation.Observe(took.Seconds())
}

// apply plans and commits; one change at a time, so that each is planned on the
// one before.
func (s *Server) apply(ctx context.Context, by api.Actor, req *pb.ApplyRequest) (plan, uint64, error) {
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	case <-ctx.Done():
		return plan{}, 0, ctx.Err()
	}
	for try := 1; ; try++ {
		p, err := newPlan(s.snap(), req, bounds{dev: s.cfg.Dev, wit: s.cfg.WIT, lifetimes: s.ca.Lifetimes()})
		if err != nil {
			return plan{}, 0, err
		}
		if len(p.edits) == 0 {
			return p, p.base.revision, nil
		}
		if err := p.doubtful(req); err != nil {
			return plan{}, 0, err
		}
		if req.GetDryRun() {
			return p, p.base.revision, nil
		}
		if err := p.permit(by); err != nil {
			return plan{}, 0, err
		}
		err = s.commitPlan(ctx, by.Name, p)
		if err == nil {
			return p, p.base.revision + 1, nil
		}
		if !fault.Is(err, fault.Conflict) || try == conflictTries {
			return plan{}, 0, err
		}
	}
}

// commitPlan writes the plan. A Conflict means that the revision has moved; the
// snapshot has caught up with it then.
func (s *Server) commitPlan(ctx context.Context, by string, p plan) error {
	revision := p.base.revision + 1
	txn := registry.Txn{
		If: []registry.Condition{registry.IfUnchanged(p.base.counter)},
		Do: []registry.Op{registry.Put(revisionKey, revisionValue(revision))},
	}
	for _, e := range p.edits {
		bundle, err := e.bundle(s.cfg.Now())
		if err != nil {
			return err
		}
		txn.Do = append(txn.Do, bundle...)
		if e.after == nil {
			txn.Do = append(txn.Do, registry.Delete(registry.ObjectKey(e.key.kind, e.key.name)))
			continue
		}
		op, err := putObject(e.after)
		if err != nil {
			return err
		}
		txn.Do = append(txn.Do, op)
	}
	event := audit.Event{
		Kind: audit.Changed, Actor: by, Object: p.summary(), Revision: revision,
		Facts: map[string]string{"changes": strconv.Itoa(len(p.edits))},
	}
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	if fault.Is(err, fault.Conflict) {
		if arriveErr := s.arriveLatest(ctx); arriveErr != nil {
			return arriveErr
		}
		return err
	}
	if err != nil {
		return err
	}
	return s.arrive(ctx, version)
}

// audited does a deed between its two records. A deed whose intent cannot be
// recorded is not done, and none is recorded that the store would refuse.
func (s *Server) audited(ctx context.Context, event audit.Event, deed func() (registry.Version, error)) (registry.Version, error) {
	if err := s.awaitWritable(ctx); err != nil {
		return 0, err
	}
	event.Phase = audit.Before
	if err := s.recordFirst(ctx, event); err != nil {
		return 0, err
	}
	version, err := deed()
	event.Phase, event.Outcome = audit.After, "ok"
	if err != nil {
		event.Outcome = err.Error()
	}
	// The deed is done; its record must not end with the caller's patience.
	if recErr := s.record(context.WithoutCancel(ctx), event); recErr != nil {
		s.log.Error("audit log not written", "error", recErr, "object", event.Object)
	}
	return version, err
}

// recordFirst records what is about to be done. Where the log cannot take it the
// caller learns in which way; the paths are for our own log.
func (s *Server) recordFirst(ctx context.Context, event audit.Event) error {
	err := s.record(ctx, event)
	if err == nil || ctx.Err() != nil {
		return err
	}
	s.log.Error("audit log not written, so nothing is done", "error", err, "object", event.Object)
	why := "it cannot be written"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		why = "its disk is full"
	}
	return fault.Hint(api.Away{Err: fmt.Errorf("nothing was changed, as the audit log takes no record of it: %s", why)},
		"look at the disk of the server's state directory; its log names the file")
}

func (s *Server) record(ctx context.Context, event audit.Event) error {
	if s.cfg.Audit == nil {
		return nil
	}
	return s.cfg.Audit.Record(ctx, event)
}

// commit writes to the store, or says at once that it cannot be written.
func (s *Server) commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	if err := s.awaitWritable(ctx); err != nil {
		return 0, err
	}
	still, err := s.stillAdmin(ctx)
	if err != nil {
		return 0, err
	}
	txn.If = append(txn.If, still...)
	limit, cancel := s.patience(ctx)
	defer cancel()
	version, err := s.cfg.Store.Commit(limit, txn)
	switch {
	case err == nil:
		s.confirm()
		return version, nil
	case errors.Is(err, registry.ErrUncertain), ctx.Err() == nil && limit.Err() != nil:
		return 0, away(fmt.Errorf("the store did not confirm in time; the change may or may not have been made: %w", err))
	case errors.Is(err, registry.ErrAway):
		return 0, away(fmt.Errorf("nothing was changed: %w", err))
	default:
		return 0, err
	}
}

// arrive waits until the own snapshot has a version.
func (s *Server) arrive(ctx context.Context, version registry.Version) error {
	limit, cancel := context.WithTimeout(ctx, arriveLimit)
	defer cancel()
	if err := s.arrived.wait(limit, version); err != nil {
		return away(errors.New("the change is recorded, but this server has not read it back yet"))
	}
	return nil
}

// arriveLatest waits until the own snapshot has what the store has now.
func (s *Server) arriveLatest(ctx context.Context) error {
	limit, cancel := s.patience(ctx)
	defer cancel()
	item, err := s.cfg.Store.Get(limit, revisionKey)
	if err != nil {
		return fmt.Errorf("read the revision: %w", err)
	}
	return s.arrive(ctx, item.Version)
}
