package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

// small is a log of small files, four of them.
func small(t testing.TB, path string) *Log {
	t.Helper()
	l, err := Open(Config{Path: path, Now: now, FileBytes: minFileBytes, Files: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// large is an event of which twenty fill a file.
func large(n int) Event {
	e := event(n)
	e.Facts["text"] = strings.Repeat("x", 4000)
	return e
}

func fill(t testing.TB, l *Log, count int) {
	t.Helper()
	for n := range count {
		if err := l.Record(t.Context(), large(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// filesOf are the names of all files of a log and their sizes together.
func filesOf(t testing.TB, path string) (names []string, size int64) {
	t.Helper()
	all, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return all, size
}

// The log is bounded, its chain goes on from file to file and over restarts, and
// says what is no longer there.
func TestChainGoesOnFromFileToFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	var early, late Head
	for round := range 6 {
		l := small(t, path)
		fill(t, l, 30)
		if round == 0 {
			early = l.Head()
		}
		late = l.Head()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		report, err := Verify(path, late)
		if err != nil || report.Head != late || !report.Holds {
			t.Fatalf("round %d: got %+v, %v, want the end %+v", round, report, err, late)
		}
	}
	names, size := filesOf(t, path)
	report, err := Verify(path, early)
	if err != nil || report.Files != 4 || len(names) != 4 || report.First < 50 || report.Holds {
		t.Errorf("got %+v, %v, of %v, want four files that begin far from line 1", report, err, names)
	}
	if size > 4*(minFileBytes+5000) {
		t.Errorf("%d bytes in four files of %d", size, minFileBytes)
	}
	if missing, err := Verify(path, Head{late.Seq, strings.Repeat("0", 64)}); err != nil || missing.Holds {
		t.Errorf("a head that never was: got %+v, %v", missing, err)
	}
}

// T18: a file that is taken away, changed or exchanged shows.
func TestVerifyFindsTamperingWithFiles(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "audit.log")
	l := small(t, whole)
	fill(t, l, 150)
	l.Close()
	names, _ := filesOf(t, whole)
	if len(names) != 4 {
		t.Fatalf("files %v", names)
	}
	present, oldest, second, newest := names[0], names[1], names[2], names[3]
	edit := func(name string) error {
		return os.WriteFile(name, bytes.Replace(read(t, name), []byte("xxx"), []byte("xyx"), 1), 0o600)
	}
	for what, change := range map[string]func(dir string) error{
		"oldest gone":    func(dir string) error { return os.Remove(dir + oldest) },
		"middle gone":    func(dir string) error { return os.Remove(dir + second) },
		"newest gone":    func(dir string) error { return os.Remove(dir + newest) },
		"oldest changed": func(dir string) error { return edit(dir + oldest) },
		"newest changed": func(dir string) error { return edit(dir + newest) },
		"exchanged":      func(dir string) error { return os.Rename(dir+second, dir+oldest) },
	} {
		dir := t.TempDir()
		for _, name := range names {
			to := dir + name
			if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, read(t, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Verify(dir+present, Head{}); err != nil {
			t.Fatalf("a copy: %v", err)
		}
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if report, err := Verify(dir+present, Head{}); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %+v, %v", what, report, err)
		}
	}
}

// A crash at each point of a change of files leaves a log that goes on.
func TestOpenAfterACrashBetweenFiles(t *testing.T) {
	for what, crash := range map[string]func(path string) error{
		"next file made": func(path string) error { return os.WriteFile(path+newSuffix, nil, 0o600) },
		"second name given": func(path string) error {
			return errors.Join(os.WriteFile(path+newSuffix, nil, 0o600), os.Link(path, fmt.Sprintf("%s.%020d", path, 1)))
		},
		"next file in place": func(path string) error {
			return errors.Join(os.Rename(path, fmt.Sprintf("%s.%020d", path, 1)), os.WriteFile(path, nil, 0o600))
		},
	} {
		path := filepath.Join(t.TempDir(), "audit.log")
		l := small(t, path)
		fill(t, l, 5)
		before := l.Head()
		l.Close()
		if err := crash(path); err != nil {
			t.Fatal(err)
		}
		if report, err := Verify(path, before); err != nil || !report.Holds {
			t.Errorf("%s: verify before the start: %+v, %v", what, report, err)
		}
		l = small(t, path)
		if l.Head() != before {
			t.Errorf("%s: goes on from %+v, want %+v", what, l.Head(), before)
		}
		fill(t, l, 40) // over the next change of files as well
		report, err := Verify(path, before)
		if err != nil || !report.Holds || report.Head != l.Head() || report.First != 1 {
			t.Errorf("%s: %+v, %v", what, report, err)
		}
		if _, err := os.Stat(path + newSuffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %s is left: %v", what, newSuffix, err)
		}
	}
}

// A log whose next file cannot be made grows: no event is lost for it.
func TestFullFileGrowsWhereNoneCanFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := small(t, path)
	if err := os.Mkdir(path+newSuffix, 0o700); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 40)
	if names, _ := filesOf(t, path); len(names) != 2 { // the log and the obstacle
		t.Fatalf("files %v", names)
	}
	if err := os.Remove(path + newSuffix); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 40)
	if names, _ := filesOf(t, path); len(names) < 2 {
		t.Errorf("files %v: it has not gone on to the next one", names)
	}
	if report, err := Verify(path, Head{}); err != nil || report.Head.Seq != 80 {
		t.Errorf("got %+v, %v, want 80 lines", report, err)
	}
}

// Whatever file it is by now, one process writes.
func TestRotatedLogIsStillLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := small(t, path)
	fill(t, l, 50)
	if second, err := Open(Config{Path: path, Now: now}); !fault.Is(err, fault.Conflict) {
		t.Errorf("a second writer: got %v, %v", second, err)
	}
}

func TestLogsThatCannotBeBoundedAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for what, c := range map[string]Config{
		"tiny files": {Path: path, Now: now, FileBytes: 100}, "one file": {Path: path, Now: now, Files: 1}, "no clock": {Path: path}, "no path": {Now: now},
	} {
		if _, err := Open(c); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
