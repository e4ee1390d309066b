package store

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/run"
)

// How the store looks after itself.
const (
	lookEvery    = time.Second
	probeEvery   = 2 // looks: an answer costs both sides as much as a hundred looks
	probeLimit   = 2 * time.Second
	probesMissed = 2                      // silent probes before the member counts as away
	suspicious   = 250 * time.Millisecond // how long a commit takes before the member is looked at
	repairEvery  = 3 * time.Second        // between attempts to free the database's space
	repairLimit  = 30 * time.Second
	defaultFree  = 64 << 20 // free disk below which commits are refused
)

// standsStill is why a member is away that a signal has stopped.
const standsStill = "the store member was stopped by a signal"

// healthBox holds the health and tells those who wait for it to change.
type healthBox struct {
	now func() time.Time
	log *slog.Logger

	mu       sync.Mutex
	current  Health        // guarded by mu
	absent   string        // guarded by mu; why the member is away, or ""
	refusing string        // guarded by mu; why commits are refused, or ""
	changed  chan struct{} // guarded by mu; closed and replaced by each change
}

func newHealthBox(now func() time.Time, log *slog.Logger) *healthBox {
	return &healthBox{now: now, log: log, current: Health{State: OK, Since: now()}, changed: make(chan struct{})}
}

func (h *healthBox) away(reason string) { h.set(func() { h.absent = reason }) }
func (h *healthBox) back()              { h.set(func() { h.absent = "" }) }

// goesOn ends the absence of a member that stood still, and no other.
func (h *healthBox) goesOn() {
	h.set(func() {
		if h.absent == standsStill {
			h.absent = ""
		}
	})
}

func (h *healthBox) refuse(reason string) {
	h.set(func() { h.refusing = reason })
}

// set applies a change and works out the health: away is worse than read-only.
func (h *healthBox) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
	next := Health{State: OK, Since: h.current.Since}
	switch {
	case h.absent != "":
		next.State, next.Reason = Away, h.absent
		if h.refusing != "" { // most likely the cause of the absence
			next.Reason = h.refusing + "; " + h.absent
		}
	case h.refusing != "":
		next.State, next.Reason = ReadOnly, h.refusing
	}
	if next.State == h.current.State && next.Reason == h.current.Reason {
		return
	}
	if next.State != h.current.State {
		next.Since = h.now()
		if next.State == OK {
			h.log.Info("store is back", "was", h.current.State, "reason", h.current.Reason)
		} else {
			h.log.Warn("store is "+string(next.State), "reason", next.Reason)
		}
	}
	h.current = next
	close(h.changed)
	h.changed = make(chan struct{})
}

// get is the health and a channel that closes when it changes.
func (h *healthBox) get() (Health, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current, h.changed
}

// look probes the member, the disk and the database until ctx ends.
func (e *Etcd) look(ctx context.Context) {
	tick := time.NewTimer(run.Beat(lookEvery))
	defer tick.Stop()
	missed := 0
	var repaired time.Time
	for looks := 1; ; looks++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		tick.Reset(run.Beat(lookEvery))
		if e.child.pid() == 0 {
			continue // its supervisor speaks for it
		}
		if e.noticeStop() || looks%probeEvery != 0 && missed == 0 && e.Health().State == OK {
			continue
		}
		status, err := e.probe(ctx, missed == 0 && e.Health().State == OK)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if missed++; missed >= probesMissed && e.child.pid() != 0 {
				e.health.away("the store member does not answer: " + err.Error())
			}
			continue
		case missed >= probesMissed:
			e.health.back()
		}
		e.health.goesOn()
		missed = 0
		e.health.refuse(e.whyReadOnly(status))
		if alarmed(status, pb.AlarmType_NOSPACE) && e.cfg.Now().Sub(repaired) >= repairEvery {
			if err := e.repair(ctx); err != nil && ctx.Err() == nil {
				e.cfg.Log.Debug("store repair", "err", err)
			}
			repaired = e.cfg.Now()
		}
	}
}

// noticeStop marks a member that was stopped as away.
func (e *Etcd) noticeStop() bool {
	if !e.child.stands() {
		return false
	}
	e.health.away(standsStill)
	return true
}

// probe asks how the member is. One that was well is asked over the connection
// that everything else uses: the client's own Status dials each time, which was a
// third of what a server with nothing to do spends. One that was not may be back
// before that connection is.
func (e *Etcd) probe(ctx context.Context, well bool) (*clientv3.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	if well {
		status, err := pb.NewMaintenanceClient(e.client.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
		return (*clientv3.StatusResponse)(status), err
	}
	return e.client.Status(ctx, e.endpoint)
}

// whyReadOnly is why commits must be refused now, or "". The disk is watched
// so that the engine never meets a full one, which it would not survive.
func (e *Etcd) whyReadOnly(status *clientv3.StatusResponse) string {
	switch {
	case alarmed(status, pb.AlarmType_CORRUPT):
		return "the database is corrupt; restore it from a backup"
	case alarmed(status, pb.AlarmType_NOSPACE):
		return fmt.Sprintf("the database has reached its quota of %d MiB (in use: %d MiB)", e.cfg.Quota>>20, status.DbSizeInUse>>20)
	}
	return e.whyDiskFull()
}

func (e *Etcd) whyDiskFull() string {
	free, err := e.cfg.FreeSpace(e.cfg.Dir)
	switch {
	case err != nil:
		return "the disk of " + e.cfg.Dir + " cannot be read: " + err.Error()
	case free < e.cfg.MinFree:
		return fmt.Sprintf("the disk of %s is full: %d MiB free, %d MiB needed", e.cfg.Dir, free>>20, e.cfg.MinFree>>20)
	}
	return ""
}

// alarmed reports whether the member raised the alarm.
func alarmed(status *clientv3.StatusResponse, alarm pb.AlarmType) bool {
	for _, text := range status.Errors {
		if strings.Contains(text, "alarm:"+alarm.String()) {
			return true
		}
	}
	return false
}

// repair frees what history holds of a full database and ends its alarm when
// that was enough. Watches that were behind must start again.
func (e *Etcd) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairLimit)
	defer cancel()
	response, err := e.client.Get(ctx, revisionKey)
	if err != nil {
		return fmt.Errorf("read revision: %w", err)
	}
	if _, err := e.client.Compact(ctx, response.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !isCompacted(err) {
		return fmt.Errorf("compact: %w", err)
	}
	if _, err := e.client.Defragment(ctx, e.endpoint); err != nil {
		return fmt.Errorf("defragment: %w", err)
	}
	status, err := e.client.Status(ctx, e.endpoint)
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if status.DbSize > e.cfg.Quota/10*9 {
		return fmt.Errorf("%d MiB in use of %d MiB", status.DbSizeInUse>>20, e.cfg.Quota>>20)
	}
	if _, err := e.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: status.Header.MemberId, Alarm: pb.AlarmType_NOSPACE}); err != nil {
		return fmt.Errorf("end alarm: %w", err)
	}
	e.health.refuse(e.whyDiskFull())
	return nil
}

// freeSpace is what an ordinary user can still write below dir, in bytes.
func freeSpace(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return s.Bavail * uint64(s.Bsize), nil
}
