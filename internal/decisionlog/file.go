package decisionlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Bounds and defaults of files.
const (
	DefaultFileSize = 64 << 20
	DefaultFiles    = 8
)

// File is JSON lines in a file, and up to Files older ones beside it: PATH.1 is
// the latest of these.
type File struct {
	Path  string
	Size  int64 // 0 is DefaultFileSize
	Files int   // with the one that is written to; 0 is DefaultFiles
}

type file struct {
	File

	line func(*entry) ([]byte, error)
	out  *os.File // nil until it could be opened
	size int64
	pipe bool // no regular file: not cut back, not rotated
	torn bool // a pipe has taken half a line
}

func newFile(f File, line func(*entry) ([]byte, error)) *file {
	if f.Size == 0 {
		f.Size = DefaultFileSize
	}
	if f.Files == 0 {
		f.Files = DefaultFiles
	}
	return &file{File: f, line: line}
}

// write appends a line for each entry, whole lines only: what a full disk took half
// of is cut off again.
func (f *file) write(ctx context.Context, entries []*entry) (int, error) {
	var text []byte
	done, taken := 0, 0
	for _, e := range entries {
		line, err := f.line(e)
		if err != nil {
			return done, err
		}
		if len(text) > 0 && f.size+int64(len(text)+len(line)) >= f.Size {
			if err := f.append(ctx, text); err != nil {
				return done, err
			}
			done, taken, text = done+taken, 0, nil
		}
		text, taken = append(append(text, line...), '\n'), taken+1
	}
	if err := f.append(ctx, text); err != nil {
		return done, err
	}
	return done + taken, nil
}

// append writes all of the text or none.
func (f *file) append(ctx context.Context, text []byte) error {
	if err := f.ready(int64(len(text))); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && f.pipe {
		if err := f.out.SetWriteDeadline(deadline); err != nil && !errors.Is(err, os.ErrNoDeadline) {
			return err
		}
		defer context.AfterFunc(ctx, func() { _ = f.out.SetWriteDeadline(time.Unix(1, 0)) })()
	}
	if f.torn {
		text = append([]byte{'\n'}, text...)
	}
	n, err := f.out.Write(text)
	if err == nil {
		f.size, f.torn = f.size+int64(n), false
		return nil
	}
	f.torn = f.torn || f.pipe && n > 0
	if !f.pipe && f.out.Truncate(f.size) == nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return errors.Join(fmt.Errorf("write %s: %w", f.Path, err), f.close()) // where it ends is not known any more
}

// ready opens the file, and begins another where this one is full.
func (f *file) ready(more int64) error {
	if f.out != nil && !f.pipe && f.size > 0 && f.size+more > f.Size {
		if err := errors.Join(f.close(), f.rotate()); err != nil {
			return err
		}
	}
	if f.out != nil {
		return nil
	}
	// Without O_NONBLOCK a pipe that nobody reads would hold the open up.
	out, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	info, err := out.Stat()
	if err != nil {
		return errors.Join(err, out.Close())
	}
	f.out, f.size, f.pipe = out, info.Size(), !info.Mode().IsRegular()
	if f.pipe {
		return nil
	}
	return f.mend()
}

// mend ends a line that a crash has left half written, so that the next one is
// whole.
func (f *file) mend() error {
	if f.size == 0 {
		return nil
	}
	in, err := os.Open(f.Path)
	if err != nil {
		return nil // it may be written to and not read: fine
	}
	defer in.Close()
	last := make([]byte, 1)
	if _, err := in.ReadAt(last, f.size-1); err != nil && !errors.Is(err, io.EOF) || last[0] == '\n' {
		return nil
	}
	n, err := f.out.WriteString("\n")
	f.size += int64(n)
	return err
}

// rotate renames PATH to PATH.1 and so on; the oldest goes.
func (f *file) rotate() error {
	name := func(i int) string {
		if i == 0 {
			return f.Path
		}
		return fmt.Sprintf("%s.%d", f.Path, i)
	}
	if err := os.Remove(name(f.Files - 1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := f.Files - 2; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (f *file) close() error {
	if f.out == nil {
		return nil
	}
	err := f.out.Close()
	f.out = nil
	return err
}
