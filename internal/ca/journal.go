package ca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

const (
	defaultJournalBytes = 32 << 20
	shipBytes           = 256 << 10
	alarmShare          = 0.5
)

// journal is the local record of what is about to be signed. Its space is
// taken when it is made, so that a full disk does not stop it, and used again
// once its entries have been shipped.
type journal struct {
	path string

	// Callers that come while a write is on its way gather in the next batch;
	// the first of them writes for all, with one sync.
	mu   sync.Mutex
	next *appendBatch // guarded by mu

	disk   sync.Mutex // held while writing; taken before mu
	ring   *ring      // guarded by disk, except for reads between tail and head
	broken error      // guarded by disk; after a failed write nobody knows what is on disk

	shipping sync.Mutex // held while shipping; taken before disk
	wake     chan struct{}
	latest   atomic.Int64  // greatest time on disk, Unix nanoseconds
	used     atomic.Uint64 // bytes not yet shipped
	stopped  atomic.Bool   // broken is set
}

type appendBatch struct {
	groups []*appendGroup
	done   chan struct{}
}

// appendGroup is the entries of one call, which stand or fall together.
type appendGroup struct {
	payloads [][]byte
	at       time.Time
	err      error // set before done is closed
}

// openJournal opens the journal at path or makes one of the given size.
func openJournal(path string, size int64) (*journal, error) {
	if size == 0 {
		size = defaultJournalBytes
	}
	if size < ringStart+minCapacity || size > maxCapacity {
		return nil, fault.Invalidf("journal size %d is not between %d and %d bytes", size, ringStart+minCapacity, int64(maxCapacity))
	}
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createJournal(path, size); err != nil {
			return nil, fault.Hint(fmt.Errorf("create journal %s: %w", path, err), "it needs %d bytes of free space", size)
		}
		file, err = os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = fault.Conflictf("journal %s is in use by another process: %w", path, err)
		return nil, errors.Join(fault.Hint(err, "stop the other server, or give this one a state directory of its own"), file.Close())
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open journal: %w", err), file.Close())
	}
	j, err := newJournal(path, syncFile{file}, info.Size())
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

func newJournal(path string, file ringFile, size int64) (*journal, error) {
	r, err := openRing(file, size)
	if err != nil {
		err = fmt.Errorf("journal %s %w", path, err)
		return nil, fault.Hint(err, "keep the file as evidence, move it away, and start again: a new one is made")
	}
	j := &journal{path: path, ring: r, next: newAppendBatch(), wake: make(chan struct{}, 1)}
	j.publish()
	return j, nil
}

// createJournal writes a whole file beside the path and renames it, so that a
// crash leaves either none or a good one. The zeros are written, not skipped:
// they make the file system give the space now.
func createJournal(path string, size int64) error {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, ".journal-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	err = fillJournal(file, size)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func fillJournal(file *os.File, size int64) error {
	zeros := make([]byte, 1<<20)
	size = (size-ringStart)&^7 + ringStart
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := file.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at); err != nil {
			return err
		}
	}
	r := &ring{file: syncFile{file}, capacity: uint64(size - ringStart)}
	if err := r.writeSlot(0); err != nil {
		return err
	}
	return file.Sync()
}

func newAppendBatch() *appendBatch { return &appendBatch{done: make(chan struct{})} }

// pending is entries of one call on their way to the disk.
type pending struct {
	batch *appendBatch
	group *appendGroup
}

// add writes entries together or not at all and returns once they are on disk.
// With the error of a ctx that ended they may be on disk; with any other they
// are not, or it is unknown and nothing is written any more.
func (j *journal) add(ctx context.Context, at time.Time, entries ...Entry) error {
	p, leads, err := j.join(at, entries)
	if err != nil {
		return err
	}
	if leads {
		j.lead(p.batch) // it carries others' entries, so its own ctx does not stop it
		return p.group.err
	}
	return p.wait(ctx)
}

// begin is add that does not wait: what depends on the entries must not happen
// before wait has returned nil.
func (j *journal) begin(at time.Time, entries ...Entry) (*pending, error) {
	if j.stopped.Load() {
		return nil, j.failure()
	}
	p, leads, err := j.join(at, entries)
	if leads {
		go j.lead(p.batch) // it ends with the write; close waits for that
	}
	return p, err
}

// wait returns once the entries are on disk. Its errors are those of add.
func (p *pending) wait(ctx context.Context) error {
	select {
	case <-p.batch.done:
		return p.group.err
	case <-ctx.Done():
		return fmt.Errorf("journal: waiting for the disk: %w", ctx.Err())
	}
}

// join puts entries into the next batch. Who is the first there leads it.
func (j *journal) join(at time.Time, entries []Entry) (p *pending, leads bool, err error) {
	g := &appendGroup{payloads: make([][]byte, len(entries)), at: at}
	for i, entry := range entries {
		if g.payloads[i], err = entry.encode(); err != nil {
			return nil, false, err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	b := j.next
	b.groups = append(b.groups, g)
	return &pending{b, g}, len(b.groups) == 1, nil
}

func (j *journal) lead(b *appendBatch) {
	j.disk.Lock()
	defer j.disk.Unlock()
	// A sync costs as much processor time as a signature and its check. Whoever
	// is ready to run goes first, and those that come to the journal share it.
	runtime.Gosched()
	j.mu.Lock()
	j.next = newAppendBatch() // b is complete
	j.mu.Unlock()
	if j.broken == nil {
		j.broken = j.write(b)
	}
	if j.broken != nil {
		for _, g := range b.groups {
			g.err = j.broken
		}
	}
	j.publish()
	close(b.done)
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// write puts the groups that fit on disk; the others get an error of their
// own. Its own error is one after which the journal cannot go on.
func (j *journal) write(b *appendBatch) error {
	var buf []byte
	pos, latest := j.ring.head, j.ring.latest
	for _, g := range b.groups {
		var need uint64
		for _, payload := range g.payloads {
			need += recordSize(len(payload))
		}
		if pos+need-j.ring.tail > j.ring.capacity {
			g.err = j.exhausted()
			continue
		}
		for _, payload := range g.payloads {
			buf = j.ring.appendRecord(buf, pos, payload, g.at)
			pos += recordSize(len(payload))
		}
		latest = max(latest, g.at.UnixNano())
	}
	if len(buf) == 0 {
		return nil
	}
	err := j.ring.writeAt(buf, j.ring.head)
	if err == nil {
		err = j.ring.file.Sync()
	}
	if err != nil {
		return fault.Hint(fmt.Errorf("journal %s: %w", j.path, err), "look at the disk, then restart the server")
	}
	j.ring.head, j.ring.latest = pos, latest
	return nil
}

func (j *journal) exhausted() error {
	err := fmt.Errorf("journal %s is full: its entries cannot be shipped to the audit log", j.path)
	return fault.Hint(err, "make the audit log writable again; issuing goes on by itself then")
}

// publish shows the state to readers that hold no lock. j.disk is held.
func (j *journal) publish() {
	j.latest.Store(j.ring.latest)
	j.used.Store(j.ring.head - j.ring.tail)
	j.stopped.Store(j.broken != nil)
}

// share is how much of the journal waits to be shipped, from 0 to 1.
func (j *journal) share() float64 { return float64(j.used.Load()) / float64(j.ring.capacity) }

// drain ships what is on disk, in order, and frees its space. Entries are
// shipped at least once: after a crash, or an error of ship, some come again.
func (j *journal) drain(ctx context.Context, ship func(context.Context, []Entry) error) error {
	j.shipping.Lock()
	defer j.shipping.Unlock()
	for {
		j.disk.Lock()
		tail, head := j.ring.tail, j.ring.head
		j.disk.Unlock()
		if tail == head {
			return nil
		}
		// Nothing writes between tail and head, and only we move the tail.
		payloads, next, err := j.ring.readFrom(tail, head, shipBytes)
		if err != nil {
			return fmt.Errorf("journal %s %w", j.path, err)
		}
		entries := make([]Entry, len(payloads))
		for i, payload := range payloads {
			if entries[i], err = decodeEntry(payload); err != nil {
				return err
			}
		}
		if err := ship(ctx, entries); err != nil {
			return fmt.Errorf("ship %d journal entries: %w", len(entries), err)
		}
		if err := j.free(next); err != nil {
			return err
		}
	}
}

func (j *journal) free(tail uint64) error {
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.broken != nil {
		return j.broken
	}
	if err := j.ring.writeSlot(tail); err != nil {
		j.broken = fmt.Errorf("journal %s: note what was shipped: %w", j.path, err)
	}
	j.publish()
	return j.broken
}

// failure is why nothing is written any more, or nil.
func (j *journal) failure() error {
	j.disk.Lock()
	defer j.disk.Unlock()
	return j.broken
}

// close waits for the writes on their way; later entries are errors.
func (j *journal) close() error {
	j.shipping.Lock()
	defer j.shipping.Unlock()
	j.disk.Lock()
	defer j.disk.Unlock()
	if j.broken == nil {
		j.broken = errors.New("journal is closed")
	}
	j.publish()
	return j.ring.file.Close()
}
