package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// Commit implements registry.Store. Each round reads the revision and the
// conditions' keys at one point, checks the conditions, and writes only if the
// revision is still the same: since every transaction moves it, that proves
// that nothing at all has changed between. Commits of this process take turns.
func (e *Etcd) Commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	if err := txn.Validate(); err != nil {
		return 0, err
	}
	ctx, cancel := limited(ctx, commitLimit)
	defer cancel()
	if err := e.mayCommit(ctx); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	select {
	case <-e.writing:
		defer func() { e.writing <- struct{}{} }()
	case <-ctx.Done():
		return 0, fmt.Errorf("commit: wait for turn: %w", ctx.Err())
	}
	// A member that stands still says nothing, and a busy disk is no reason to
	// give up: after a while its state is looked at.
	look := time.AfterFunc(suspicious, func() { e.noticeStop() })
	defer look.Stop()
	version, err := e.commit(ctx, txn)
	if err != nil {
		e.last = revision{} // unknown now; read it before the next commit
		return 0, fmt.Errorf("commit: %w", err)
	}
	return version, nil
}

// mayCommit waits for a member that has just gone away, and refuses at once
// when the store has been away for longer or is read-only.
func (e *Etcd) mayCommit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for {
		if reason := e.whyDiskFull(); reason != "" {
			e.health.refuse(reason)
		}
		h, changed := e.health.get()
		switch h.State {
		case OK:
			return nil
		case ReadOnly:
			return fault.Hint(fmt.Errorf("%w: it is read-only: %s", registry.ErrAway, h.Reason), "kith status")
		}
		left := patience - e.cfg.Now().Sub(h.Since)
		if left <= 0 {
			return fault.Hint(fmt.Errorf("%w: %s", registry.ErrAway, h.Reason), "kith status")
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %s: %w", registry.ErrAway, h.Reason, ctx.Err())
		}
	}
}

// attempt is what is known of a commit while it is being tried.
type attempt struct {
	base revision // the revision it was sent on
	next revision // what it makes of it
	sent bool     // an earlier write may still happen, or have happened
}

func (e *Etcd) commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	var a attempt
	for {
		base, conflict, err := e.base(ctx, txn, a)
		if err != nil {
			if ctx.Err() == nil && retryable(err) {
				pause(ctx)
				continue
			}
			return 0, e.commitError(a, err)
		}
		if a.sent && base.version >= a.next.version {
			ours, err := e.happened(ctx, a, base)
			if ours || err != nil {
				return a.next.version, err
			}
			a = attempt{} // another commit took its place, so it never will
		}
		if conflict != nil {
			return 0, conflict
		}
		if !a.sent || base != a.base {
			a.base, a.next = base, base.next()
		}
		done, err := e.write(ctx, txn, &a)
		if done || err != nil {
			return a.next.version, err
		}
	}
}

// write sends the transaction once. done says that it was applied; neither
// done nor an error means that another round must find out.
func (e *Etcd) write(ctx context.Context, txn registry.Txn, a *attempt) (done bool, err error) {
	response, err := e.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(revisionKey), "=", a.base.engine)).
		Then(ops(txn, a.next)...).Commit()
	switch {
	case err == nil && response.Succeeded:
		e.last = a.next
		e.last.engine = response.Header.Revision
		return true, nil
	case err == nil:
		e.last = revision{}
		return false, nil
	case errors.Is(err, rpctypes.ErrNoSpace):
		e.health.refuse("the database has reached its quota")
		return e.afterNoSpace(ctx, a)
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return false, fault.Wrap(fault.Invalid, err)
	}
	e.last = revision{}
	if !errors.Is(err, rpctypes.ErrTooManyRequests) {
		a.sent = true
	}
	if ctx.Err() != nil || !retryable(err) {
		return false, e.commitError(*a, err)
	}
	pause(ctx)
	return false, nil
}

// afterNoSpace tells the two meanings of ErrNoSpace apart: the member refuses a
// write before applying it, but one that itself passes the quota is applied, and
// refused all the same.
func (e *Etcd) afterNoSpace(ctx context.Context, a *attempt) (done bool, err error) {
	response, err := e.client.Get(ctx, revisionKey)
	if err != nil {
		a.sent = true
		return false, e.commitError(*a, err)
	}
	now, err := decodeRevision(response.Kvs)
	if err != nil {
		return false, err
	}
	if now.version >= a.next.version {
		if ours, err := e.happened(ctx, *a, now); ours || err != nil {
			return ours, err
		}
	}
	refused := fmt.Errorf("%w: it is read-only: the database has reached its quota", registry.ErrAway)
	if a.sent { // an earlier try of this commit was cut off, and may still come
		refused = fmt.Errorf("%w: %w", registry.ErrUncertain, refused)
	}
	return false, fault.Hint(refused, "kith status")
}

// base is the revision to write on, and the first condition that does not hold
// there. A plain write right after our own needs no reading.
func (e *Etcd) base(ctx context.Context, txn registry.Txn, a attempt) (revision, error, error) {
	if len(txn.If) == 0 && e.last.version > 0 && !a.sent {
		return e.last, nil, nil
	}
	reads := make([]clientv3.Op, 0, len(txn.If)+1)
	reads = append(reads, clientv3.OpGet(revisionKey))
	for _, c := range txn.If {
		reads = append(reads, clientv3.OpGet(dataPrefix+c.Key))
	}
	response, err := e.client.Txn(ctx).Then(reads...).Commit()
	if err != nil {
		return revision{}, nil, err
	}
	base, err := decodeRevision(response.Responses[0].GetResponseRange().Kvs)
	if err != nil {
		return revision{}, nil, err
	}
	for i, c := range txn.If {
		var item registry.Item
		kvs := response.Responses[i+1].GetResponseRange().Kvs
		if len(kvs) > 0 {
			if item, err = decodeItem(kvs[0]); err != nil {
				return revision{}, nil, err
			}
		}
		if !c.Holds(item, len(kvs) > 0) {
			return base, c.ConflictOn(), nil
		}
	}
	return base, nil, nil
}

// happened finds out whether a write that was cut off took place. The store
// has moved past the version it was for, so what made that version is settled.
func (e *Etcd) happened(ctx context.Context, a attempt, now revision) (bool, error) {
	then := now
	if now.version > a.next.version {
		past := now.engine - int64(now.version-a.next.version)
		response, err := e.client.Get(ctx, revisionKey, clientv3.WithRev(past))
		if err != nil {
			return false, e.commitError(a, err)
		}
		if then, err = decodeRevision(response.Kvs); err != nil {
			return false, err
		}
		if then.version != a.next.version {
			return false, registry.ErrUncertain
		}
	}
	if then.tag != a.next.tag {
		return false, nil
	}
	e.last = now
	return true, nil
}

// ops are the engine's operations: ours, and the revision that they make.
func ops(txn registry.Txn, next revision) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(txn.Do)+1)
	out = append(out, clientv3.OpPut(revisionKey, next.encode()))
	for _, op := range txn.Do {
		if op.Delete {
			out = append(out, clientv3.OpDelete(dataPrefix+op.Key))
			continue
		}
		out = append(out, clientv3.OpPut(dataPrefix+op.Key, encodeValue(next.version, op.Value)))
	}
	return out
}

// current reads the revision.
func (e *Etcd) current(ctx context.Context) (revision, error) {
	ctx, cancel := limited(ctx, readLimit)
	defer cancel()
	response, err := e.client.Get(ctx, revisionKey)
	if err != nil {
		return revision{}, e.readError("read revision", err)
	}
	return decodeRevision(response.Kvs)
}

// commitError says whether a commit that gave up may have happened.
func (e *Etcd) commitError(a attempt, err error) error {
	kind := registry.ErrAway
	if a.sent {
		kind = registry.ErrUncertain
	}
	if h := e.Health(); h.Reason != "" {
		return fmt.Errorf("%w (%s): %w", kind, h.Reason, err)
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// retryable reports whether an error may be the member's absence. An answer
// about the request itself would be the same again.
func retryable(err error) bool {
	var answer rpctypes.EtcdError
	if errors.As(err, &answer) {
		switch answer.Code() {
		case codes.InvalidArgument, codes.OutOfRange, codes.PermissionDenied, codes.Unauthenticated, codes.DataLoss, codes.Unimplemented:
			return false
		}
		return true
	}
	return !errors.Is(err, context.Canceled)
}

// pause keeps a retry from spinning while the member is away.
func pause(ctx context.Context) {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func isCompacted(err error) bool { return errors.Is(err, rpctypes.ErrCompacted) }
