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
	shipBytes           = 512 << 10
	alarmShare          = 0.5
)

// journal is the local record of what is about to be signed. Its space is
// taken when it is made, so that a full disk does not stop it, and used again
// once its entries have been shipped.
type journal struct {
	path string
	ring *ring

	// Entries are written as they come. Who comes before a sync begins shares it,
	// and the first who waits for it does it for all.
	mu     sync.Mutex
	next   *appendBatch // guarded by mu
	broken error        // guarded by mu; after a failed write nobody knows what is on disk

	disk sync.Mutex // held while syncing; taken before mu

	shipping sync.Mutex // held while shipping; taken before disk
	wake     chan struct{}
	latest   atomic.Int64  // greatest time on disk, Unix nanoseconds
	used     atomic.Uint64 // bytes not yet shipped
}

// appendBatch is entries that one sync brings to the disk.
type appendBatch struct {
	led    atomic.Bool
	latest int64 // greatest time, Unix nanoseconds; guarded by the journal's mu
	done   chan struct{}
	err    error // set before done is closed
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
	// What a process that was killed has written can be read, and is not yet on disk.
	if err := file.Sync(); err != nil {
		return nil, fmt.Errorf("journal %s: %w", path, err)
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
	journal *journal
	batch   *appendBatch
}

// add writes entries together or not at all and returns once they are on disk.
// With the error of a ctx that ended they may be on disk; with any other they
// are not, or it is unknown and nothing is written any more.
func (j *journal) add(ctx context.Context, at time.Time, entries ...Entry) error {
	p, err := j.write(at, entries)
	if err != nil {
		return err
	}
	return p.wait(ctx)
}

// begin is add that does not wait: what depends on the entries must not happen
// before wait has returned nil. What is made of one entry is made sooner than
// another thread is woken, which costs half a sync; so who waits for it syncs.
func (j *journal) begin(at time.Time, entries ...Entry) (*pending, error) {
	p, err := j.write(at, entries)
	if err == nil && len(entries) > 1 {
		go p.lead() // it ends with the sync; close waits for that
	}
	return p, err
}

// wait returns once the entries are on disk. Its errors are those of add. One of
// those who wait syncs for all of them, and its ctx does not stop it.
func (p *pending) wait(ctx context.Context) error {
	if p.lead() {
		return p.batch.err
	}
	select {
	case <-p.batch.done:
		return p.batch.err
	case <-ctx.Done():
		return fmt.Errorf("journal: waiting for the disk: %w", ctx.Err())
	}
}

// write hands entries to the file and puts them into the next batch.
func (j *journal) write(at time.Time, entries []Entry) (*pending, error) {
	payloads, need := make([][]byte, len(entries)), uint64(0)
	for i, entry := range entries {
		var err error
		if payloads[i], err = entry.encode(); err != nil {
			return nil, err
		}
		need += recordSize(len(payloads[i]))
	}
	buf := make([]byte, 0, need)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return nil, j.broken
	}
	pos := j.ring.written
	if pos+need-j.ring.tail > j.ring.capacity {
		return nil, j.exhausted()
	}
	for _, payload := range payloads {
		buf = j.ring.appendRecord(buf, pos+uint64(len(buf)), payload, at)
	}
	if err := j.ring.writeAt(buf, pos); err != nil {
		j.broken = j.failed(err)
		return nil, j.broken
	}
	j.ring.written += need
	j.next.latest = max(j.next.latest, at.UnixNano())
	return &pending{j, j.next}, nil
}

// lead syncs the batch unless somebody has begun to. It says whether it did.
func (p *pending) lead() bool {
	if !p.batch.led.CompareAndSwap(false, true) {
		return false
	}
	p.journal.sync(p.batch)
	return true
}

// sync brings a batch to the disk.
func (j *journal) sync(b *appendBatch) {
	j.disk.Lock()
	defer j.disk.Unlock()
	// A sync costs as much processor time as a signature and its check. Whoever
	// is ready to run goes first, and those that come to the journal share it.
	runtime.Gosched()
	j.mu.Lock()
	j.next = newAppendBatch() // b is complete
	written, err := j.ring.written, j.broken
	j.mu.Unlock()
	if err == nil {
		if err = j.ring.file.Sync(); err != nil {
			err = j.failed(err)
		}
	}
	j.mu.Lock()
	if err == nil {
		j.ring.head, j.ring.latest = written, max(j.ring.latest, b.latest)
	} else {
		j.broken = err
	}
	j.publish()
	j.mu.Unlock()
	b.err = err
	close(b.done)
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// failed is the error after which the journal does not go on.
func (j *journal) failed(err error) error {
	return fault.Hint(fmt.Errorf("journal %s: %w", j.path, err), "look at the disk, then restart the server")
}

func (j *journal) exhausted() error {
	err := fmt.Errorf("journal %s is full: its entries cannot be shipped to the audit log", j.path)
	return fault.Hint(err, "make the audit log writable again; issuing goes on by itself then")
}

// publish shows the state to readers that hold no lock. Both locks are held.
func (j *journal) publish() {
	j.latest.Store(j.ring.latest)
	j.used.Store(j.ring.head - j.ring.tail)
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
	if err := j.failure(); err != nil {
		return err
	}
	err := j.ring.writeSlot(tail)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.broken = fmt.Errorf("journal %s: note what was shipped: %w", j.path, err)
		return j.broken
	}
	j.ring.tail = tail
	j.publish()
	return nil
}

// failure is why nothing is written any more, or nil.
func (j *journal) failure() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// close waits for the sync on its way; later entries are errors.
func (j *journal) close() error {
	j.shipping.Lock()
	defer j.shipping.Unlock()
	j.disk.Lock()
	defer j.disk.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken == nil {
		j.broken = errors.New("journal is closed")
	}
	return j.ring.file.Close()
}
