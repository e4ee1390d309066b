package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long a start waits for the directory's former owner to end, and how
// often it looks: a lock cannot be waited for with a limit otherwise. One whose
// server is gone is ending, though it may hang in a disk's sync for long.
const (
	lockWait  = 5 * time.Second
	dyingWait = 50 * time.Second
	lockPoll  = 50 * time.Millisecond
)

// lockedError says who holds a store directory.
type lockedError struct{ holder string }

func (e *lockedError) Error() string { return "the store directory is in use by " + e.holder }

// lockDir takes the directory's lock for this process, waiting for at most
// lockWait, or dyingWait for an owner that is about to end. The kernel frees it
// with the process, however that ends.
func lockDir(ctx context.Context, dir string) (release func(), err error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store directory: %w", err)
	}
	began := time.Now()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock store directory: %w", err)
		}
		select {
		case <-poll.C:
			waited := time.Since(began)
			if waited < lockWait {
				continue
			}
			if holder := readHolder(f); waited >= dyingWait || !holder.dying() {
				f.Close()
				return nil, &lockedError{holder.String()}
			}
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock store directory: %w", ctx.Err())
		}
	}
	if err := writeHolder(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock store directory: %w", err)
	}
	return func() { f.Close() }, nil
}

// writeHolder leaves our pid and our server's in the lock file, for the error
// of whoever comes next. A full disk must not keep a store from starting, so
// the file is overwritten in place and never grows.
func writeHolder(f *os.File) error {
	_, err := f.WriteAt(fmt.Appendf(nil, "%-10d %-10d\n", os.Getpid(), os.Getppid()), 0)
	if errors.Is(err, unix.ENOSPC) {
		return nil
	}
	return err
}

// holder is who says to hold the lock: a store member and the server that
// started it. The zero value is unknown.
type holder struct{ member, server int }

// readHolder reads who holds the lock.
func readHolder(f *os.File) holder {
	text := make([]byte, 64)
	n, err := f.ReadAt(text, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return holder{}
	}
	fields := strings.Fields(string(text[:n]))
	if len(fields) != 2 {
		return holder{}
	}
	member, err1 := strconv.Atoi(fields[0])
	server, err2 := strconv.Atoi(fields[1])
	if err1 != nil || err2 != nil || member <= 0 || server <= 0 {
		return holder{}
	}
	return holder{member, server}
}

// String is the holder in words.
func (h holder) String() string {
	if h == (holder{}) {
		return "another process"
	}
	return fmt.Sprintf("process %d (store member of server process %d)", h.member, h.server)
}

// dying says whether the member's server has ended, which ends the member too.
func (h holder) dying() bool {
	if h == (holder{}) {
		return false
	}
	parent, err := parentOf(h.member)
	return err == nil && parent != h.server
}
