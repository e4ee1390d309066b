package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kith-id/kith/internal/fault"
)

// A log is several files: the one at its path, which is written, and earlier ones
// beside it, named for their first line: audit.log, audit.log.00000000000000000001
// and so on. The chain goes on from one to the next. The oldest goes when there
// are too many; what went, and the hash of its last line, is an event in the log.
const (
	minFileBytes     = maxLine
	defaultFileBytes = 64 << 20
	defaultFiles     = 16
	newSuffix        = ".new"
)

func (c Config) withDefaults() (Config, error) {
	if c.FileBytes == 0 {
		c.FileBytes = defaultFileBytes
	}
	if c.Files == 0 {
		c.Files = defaultFiles
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Path == "" || c.Now == nil:
		return c, fault.Invalidf("audit log: path and clock must be given")
	case c.FileBytes < minFileBytes:
		return c, fault.Invalidf("audit log: files of %d bytes, at least %d", c.FileBytes, minFileBytes)
	case c.Files < 2:
		return c, fault.Invalidf("audit log: %d files, at least 2", c.Files)
	}
	return c, nil
}

// earlierFiles are the files before the one at path, oldest first.
func earlierFiles(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path)) // sorted by name, and the numbers have one length
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if number, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+"."); ok && len(number) == 20 && firstLineOf(e.Name()) > 0 {
			out = append(out, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return out, nil
}

// firstLineOf is the number of an earlier file's first line, 0 for no such file.
func firstLineOf(name string) uint64 {
	n, err := strconv.ParseUint(strings.TrimPrefix(filepath.Ext(name), "."), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// tidy removes what a crash has left of a change of files: the next file, which
// holds nothing yet, and the name of an earlier one that is the present one still.
func tidy(path string) error {
	if err := os.Remove(path + newSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	earlier, err := earlierFiles(path)
	if err != nil || len(earlier) == 0 {
		return err
	}
	newest := earlier[len(earlier)-1]
	if sameFile(newest, path) {
		return os.Remove(newest)
	}
	return nil
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	two, err := os.Stat(b)
	return err == nil && os.SameFile(one, two)
}

// turn begins a new file when the present one is full, and says what is to be
// written into it first and which files go then. If it cannot, the present file
// grows, and it is tried again later: an event that can be written is written.
func (l *Log) turn() (dropped []Event, victims []string) {
	if !l.rotates || l.size < l.full {
		return nil, nil
	}
	next, err := l.begin()
	if err != nil {
		l.full = l.size + l.config.FileBytes/4
		l.config.Log.Error("audit log not rotated", "path", l.config.Path, "size", l.size, "error", err, "hint", "look at the disk; the file grows meanwhile")
		return nil, nil
	}
	old := l.file
	l.file, l.size, l.full = next, 0, l.config.FileBytes
	if err := old.Close(); err != nil {
		l.config.Log.Warn("audit log: close the file before", "error", err)
	}
	victims, event, err := l.surplus()
	if err != nil {
		l.config.Log.Warn("audit log: old files not removed", "error", err)
		return nil, nil
	}
	if len(victims) == 0 {
		return nil, nil
	}
	return []Event{event}, victims
}

// begin puts a new, empty file in the place of the present one, which keeps its
// content under its own name. At each moment there is a file at the path, and it
// is locked: a second name, then a rename over the first.
func (l *Log) begin() (file, error) {
	path := l.config.Path
	first, err := firstSeq(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+newSuffix, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	named := fmt.Sprintf("%s.%020d", path, first)
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = os.Link(path, named)
	}
	if err == nil {
		if err = os.Rename(path+newSuffix, path); err == nil {
			err = syncDir(filepath.Dir(path))
		} else {
			os.Remove(named)
		}
	}
	if err != nil {
		os.Remove(path + newSuffix) // if it is there yet
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// surplus is the files that are too many, and the event that tells of their end.
func (l *Log) surplus() ([]string, Event, error) {
	earlier, err := earlierFiles(l.config.Path)
	if err != nil {
		return nil, Event{}, err
	}
	many := len(earlier) + 1 - l.config.Files
	if many <= 0 {
		return nil, Event{}, nil
	}
	kept, err := firstLine(earlier[many]) // Files is 2 or more, so one is kept
	if err != nil {
		return nil, Event{}, err
	}
	from, to := firstLineOf(earlier[0]), kept.Seq-1
	return earlier[:many], Event{
		Kind: Dropped, Object: fmt.Sprintf("lines %d to %d of this log", from, to), Outcome: "ok",
		Facts: map[string]string{"from": strconv.FormatUint(from, 10), "to": strconv.FormatUint(to, 10), "hash": kept.Prev},
	}, nil
}

func firstSeq(path string) (uint64, error) {
	l, err := firstLine(path)
	return l.Seq, err
}

// firstLine reads the first line of a file.
func firstLine(path string) (line, error) {
	f, err := os.Open(path)
	if err != nil {
		return line{}, err
	}
	defer f.Close()
	text, err := bufio.NewReaderSize(f, maxLine).ReadSlice('\n')
	if err != nil {
		return line{}, fmt.Errorf("first line of %s: %w", path, err)
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil || l.Seq == 0 {
		return line{}, fault.Invalidf("first line of %s is no event", path)
	}
	return l, nil
}
