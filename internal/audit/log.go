// Package audit keeps the record of deeds: an append-only file of JSON lines,
// each holding the hash of the one before, so that a changed or missing line
// shows. It decides nothing, ships nothing and is not the log.
package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

const maxWaiting = 4096

// Head names the end of a chain: how many lines there are and the hash of the
// last one. Kept elsewhere, it proves later that nothing was cut off the end.
type Head struct {
	Seq  uint64
	Hash string
}

// zeroHash stands before the first line.
func zeroHash() string { return hex.EncodeToString(make([]byte, sha256.Size)) }

// file is what the log needs of *os.File.
type file interface {
	io.WriterAt
	Truncate(int64) error
	Sync() error
	Close() error
}

// Log is an audit log open for writing. One process writes at a time. It may
// be used from several goroutines.
type Log struct {
	config Config

	// Callers that come while a write is on its way to the disk gather in the
	// next batch. The first of them leads it: it waits for the disk and then
	// writes for all, with one sync.
	mu   sync.Mutex
	next *batch // guarded by mu

	disk    sync.Mutex // held while writing; taken before mu
	file    file       // guarded by disk, as are all below
	head    Head
	size    int64
	full    int64 // at which size the next file begins
	rotates bool  // the file is one at the path, not a test's
	broken  error // once the end of the file is unknown, or it is closed
}

type batch struct {
	groups []*group
	events int
	done   chan struct{} // closed when it is on disk or has failed
}

// group is the events of one call, which stand or fall together.
type group struct {
	events []Event
	err    error // set before done is closed
}

// Config is what a log is opened with. Path and Now must be given.
type Config struct {
	Path string
	Now  func() time.Time
	// FileBytes is the size at which a file is full; default 64 MiB.
	FileBytes int64
	// Files is how many files there are at most; the oldest go. Default 16.
	Files int
	Log   *slog.Logger // default: discard
}

// Open opens or creates the log, with mode 0600, and continues its chain. A last
// line that a crash has cut short, which was never acknowledged, is removed. A
// log another process writes is a Conflict.
func Open(config Config) (*Log, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	path := config.Path
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		err = fault.Conflictf("audit log %s is being written by another process: %w", path, err)
		return nil, errors.Join(fault.Hint(err, "stop the other server, or give this one a state directory of its own"), f.Close())
	}
	info, err := f.Stat()
	if err == nil {
		err = tidy(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	l, err := resume(config, f, f, info.Size())
	if err == nil && l.head.Seq == 0 {
		err = l.follow()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.rotates = true
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	return l, nil
}

// resume finds the end of the chain.
func resume(config Config, r io.ReaderAt, f file, size int64) (*Log, error) {
	l := &Log{config: config, file: f, next: newBatch(), head: Head{Hash: zeroHash()}, full: config.FileBytes}
	path := config.Path
	last, end, err := lastLine(r, size)
	if err != nil {
		return nil, fmt.Errorf("audit log %s: %w", path, err)
	}
	if end != size {
		if err := errors.Join(f.Truncate(end), f.Sync()); err != nil {
			return nil, fmt.Errorf("audit log %s: remove a line cut short: %w", path, err)
		}
	}
	l.size = end
	if last == nil {
		return l, nil
	}
	l.head, err = headOf(path, last)
	return l, err
}

// headOf is the chain's end after a file's last line.
func headOf(path string, last []byte) (Head, error) {
	var tail line
	if err := json.Unmarshal(last, &tail); err != nil || tail.Seq == 0 {
		err := fault.Invalidf("audit log %s: its last line is no event", path)
		return Head{}, fault.Hint(err, "keep the file as evidence, move it away, and start again")
	}
	return Head{tail.Seq, hashOf(last)}, nil
}

// follow makes an empty file go on where the newest earlier one ends.
func (l *Log) follow() error {
	earlier, err := earlierFiles(l.config.Path)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	if len(earlier) == 0 {
		return nil
	}
	newest := earlier[len(earlier)-1]
	f, err := os.Open(newest)
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	last, end, err := lastLine(f, info.Size())
	if err != nil || last == nil || end != info.Size() {
		err := fault.Invalidf("audit log %s does not end with a whole line", newest)
		return fault.Hint(err, "keep the files as evidence, move them away, and start again")
	}
	l.head, err = headOf(newest, last)
	return err
}

// lastLine is the last whole line, its newline included, and where it ends.
func lastLine(r io.ReaderAt, size int64) ([]byte, int64, error) {
	from := max(0, size-2*maxLine)
	tail := make([]byte, size-from)
	if _, err := r.ReadAt(tail, from); err != nil && err != io.EOF {
		return nil, 0, err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == 0 {
		if from > 0 {
			return nil, 0, errors.New("no line end in the last 128 KiB")
		}
		return nil, 0, nil
	}
	start := bytes.LastIndexByte(tail[:end-1], '\n') + 1
	if start == 0 && from > 0 {
		return nil, 0, errors.New("last line is too long")
	}
	return tail[start:end], from + int64(end), nil
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

// Record appends an event and returns once it is on disk. An error means it is
// not there, with two exceptions: after the error of a ctx that ended it may
// be, and after a failed sync the log refuses all further events until it is
// opened again, as nobody knows what the disk holds. A full disk is an error
// that leaves the log usable once there is space.
func (l *Log) Record(ctx context.Context, event Event) error {
	return l.RecordAll(ctx, []Event{event})
}

// RecordAll is Record for several events, which are written together or not at
// all.
func (l *Log) RecordAll(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	for _, event := range events {
		if err := event.validate(); err != nil {
			return err
		}
	}
	g := &group{events: events}
	b, leads, err := l.join(g)
	if err != nil {
		return err
	}
	if leads {
		l.lead(b) // it carries others' events, so its own ctx does not stop it
		return g.err
	}
	select {
	case <-b.done:
		return g.err
	case <-ctx.Done():
		return fmt.Errorf("audit: waiting for the disk: %w", ctx.Err())
	}
}

// join puts a group into the next batch and says whether it is the first.
func (l *Log) join(g *group) (b *batch, leads bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = l.next
	if len(b.groups) > 0 && b.events+len(g.events) > maxWaiting {
		err := fmt.Errorf("audit: %d events are waiting for the disk", b.events)
		return nil, false, fault.Hint(err, "look at the disk that holds %s", l.config.Path)
	}
	b.groups = append(b.groups, g)
	b.events += len(g.events)
	return b, len(b.groups) == 1, nil
}

func (l *Log) lead(b *batch) {
	l.disk.Lock()
	defer l.disk.Unlock()
	runtime.Gosched() // whoever is ready to run goes first, and comes into this batch
	l.mu.Lock()
	l.next = newBatch() // b is complete
	l.mu.Unlock()
	if l.broken == nil {
		l.broken = l.write(b)
	} else {
		b.fail(l.broken)
	}
	close(b.done)
}

// write puts the batch on disk and gives each group its error. The error it
// returns is one after which the log cannot go on. l.disk is held.
func (l *Log) write(b *batch) error {
	dropped, victims := l.turn()
	text := make([]byte, 0, usualLine*(b.events+len(dropped)))
	head, now := l.head, l.config.Now()
	for _, g := range append([]*group{{events: dropped}}, b.groups...) {
		mark, before := len(text), head
		for _, event := range g.events {
			from := len(text)
			if text, g.err = event.appendLine(text, head.Seq+1, now, head.Hash); g.err != nil {
				text, head = text[:mark], before
				break
			}
			head = Head{head.Seq + 1, hashOf(text[from:])}
		}
	}
	if _, err := l.file.WriteAt(text, l.size); err != nil {
		b.fail(l.writeError(err))
		// Take back what part was written, or the next line would follow it.
		if err := l.file.Truncate(l.size); err != nil {
			return fmt.Errorf("audit log %s: take back a partial write: %w", l.config.Path, err)
		}
		return nil
	}
	if err := l.file.Sync(); err != nil {
		err = fmt.Errorf("audit log %s: sync: %w", l.config.Path, err)
		b.fail(err)
		return err
	}
	l.head, l.size = head, l.size+int64(len(text))
	for _, path := range victims { // their end is on record now
		if err := os.Remove(path); err != nil {
			l.config.Log.Warn("audit log: old file not removed", "error", err)
		}
	}
	return nil
}

func (b *batch) fail(err error) {
	for _, g := range b.groups {
		g.err = errors.Join(g.err, err)
	}
}

func (l *Log) writeError(err error) error {
	err = fmt.Errorf("audit log %s: %w", l.config.Path, err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.Hint(err, "free space on the disk that holds %s", l.config.Path)
	}
	return err
}

// Head is the end of the chain on disk.
func (l *Log) Head() Head {
	l.disk.Lock()
	defer l.disk.Unlock()
	return l.head
}

// Broken is why the log refuses all events until it is opened again, or nil.
func (l *Log) Broken() error {
	l.disk.Lock()
	defer l.disk.Unlock()
	return l.broken
}

// Close waits for the write on its way and closes the file; later events are
// errors.
func (l *Log) Close() error {
	l.disk.Lock()
	defer l.disk.Unlock()
	if l.broken == nil {
		l.broken = errors.New("audit log is closed")
	}
	return l.file.Close()
}

func hashOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
