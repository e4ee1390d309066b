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
