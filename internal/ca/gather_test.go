package ca

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Fifty who come while the disk is busy share one sync. Who leads it goes on
// without its ctx, since it carries the others; nobody else has to wait for it.
func TestJournalGathersWriters(t *testing.T) {
	d := newDisk(blank(t))
	j := onDisk(t, d)
	j.disk.Lock() // as if a sync were on its way
	before := d.ops
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	lead, err := j.begin(epoch, numbered(50))
	if err != nil {
		t.Fatal(err)
	}
	synced := make(chan error)
	go func() { synced <- lead.wait(gone) }()
	for !lead.batch.led.Load() {
		runtime.Gosched()
	}
	if err := j.add(gone, epoch, numbered(51)); !errors.Is(err, context.Canceled) {
		t.Errorf("one who has gone waits for the disk: %v", err)
	}
	var begun []*pending
	for n := range 48 {
		p, err := j.begin(epoch, numbered(n))
		if err != nil {
			t.Fatal(err)
		}
		begun = append(begun, p)
	}
	j.disk.Unlock()
	if err := <-synced; err != nil {
		t.Errorf("a leader stops for its ctx: %v", err)
	}
	for _, p := range begun {
		if err := p.wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if d.ops != before+51 {
		t.Errorf("%d operations for 50 writers, want as many writes and one sync", d.ops-before)
	}
}

// What can be read may not be on disk: a process that was killed between write
// and sync leaves such a record, and the next one builds on it.
func TestJournalSyncsWhatItFinds(t *testing.T) {
	d := newDisk(blank(t))
	if _, err := onDisk(t, d).begin(epoch, numbered(1)); err != nil {
		t.Fatal(err)
	}
	onDisk(t, d)
	var got []string
	if err := onDisk(t, newDisk(d.durable)).drain(t.Context(), shipTo(&got)); err != nil || !cmp.Equal(got, []string{"1"}) {
		t.Errorf("on disk after a restart: %v, %v", got, err)
	}
}

// syncing is a disk on which something happens during a sync.
type syncing struct {
	ringFile

	during func() error
}

func (s syncing) Sync() error { return s.during() }

// A disk that failed to sync says that all is well the next time, as it has forgotten
// what it could not write. Who has written meanwhile, or waits while what was shipped
// is noted, must not take that for his own entry's.
func TestFailedSyncFailsAllThatIsWritten(t *testing.T) {
	eio := errors.New("input/output error")
	t.Run("of others' entries", func(t *testing.T) {
		d := newDisk(blank(t))
		j := onDisk(t, d)
		var late *pending
		j.ring.file = syncing{d, func() (err error) {
			j.ring.file = d
			if late, err = j.begin(epoch, numbered(2)); err != nil {
				t.Errorf("an entry during a sync: %v", err)
			}
			return eio
		}}
		if err := j.add(t.Context(), epoch, numbered(1)); !errors.Is(err, eio) {
			t.Errorf("who syncs: got %v", err)
		}
		if err := late.wait(t.Context()); !errors.Is(err, eio) {
			t.Errorf("who came meanwhile: got %v", err)
		}
	})
	t.Run("of what was shipped", func(t *testing.T) {
		d := newDisk(blank(t))
		j := onDisk(t, d)
		if err := j.add(t.Context(), epoch, numbered(1)); err != nil {
			t.Fatal(err)
		}
		waits, err := j.begin(epoch, numbered(2))
		if err != nil {
			t.Fatal(err)
		}
		d.syncErr = eio
		var shipped []string
		if err := j.drain(t.Context(), shipTo(&shipped)); !errors.Is(err, eio) {
			t.Errorf("who ships: got %v", err)
		}
		d.syncErr = nil
		if err := waits.wait(t.Context()); !errors.Is(err, eio) {
			t.Errorf("who waits: got %v", err)
		}
	})
}
