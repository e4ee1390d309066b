package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/fault"
)

// owned is a file as another user's.
type owned struct {
	fs.FileInfo
	uid int
}

func (o owned) Sys() any { return &syscall.Stat_t{Uid: uint32(o.uid)} }

// Who can exchange a pid file, or a directory on the way to it, has the signal of
// one who may be root sent to no process but their own.
func TestPIDFileIsTheWordOfWhoCanWriteIt(t *testing.T) {
	t.Parallel()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	app, run := filepath.Join(dir, "app"), filepath.Join(dir, "run")
	if err := errors.Join(os.MkdirAll(filepath.Join(app, "sub"), 0o755), os.Symlink(app, run),
		os.WriteFile(filepath.Join(app, "pid"), []byte("42\n"), 0o644), os.WriteFile(filepath.Join(dir, "pid"), []byte("42\n"), 0o644),
		os.Symlink(filepath.Join(dir, "pid"), filepath.Join(app, "lent")), os.WriteFile(filepath.Join(dir, "open"), nil, 0o600),
		os.Chmod(filepath.Join(dir, "open"), 0o666)); err != nil {
		t.Fatal(err)
	}
	lstat := func(path string) (fs.FileInfo, error) {
		info, err := os.Lstat(path)
		if err == nil && (path == app || filepath.Dir(path) == app) {
			return owned{info, 1234}, nil
		}
		if err == nil && (path == filepath.Join(dir, "open") || path != dir && filepath.Dir(path) != dir) { // whoever runs this test
			return owned{info, 0}, nil
		}
		return info, err
	}
	for path, want := range map[string]int{
		filepath.Join(dir, "pid"):  os.Geteuid(),
		filepath.Join(app, "pid"):  1234,
		filepath.Join(app, "lent"): 1234, // leads to a file that is ours
		filepath.Join(run, "pid"):  1234, // by a link of ours
	} {
		if got, err := pidFileOwner(path, os.Geteuid(), lstat); err != nil || got != want {
			t.Errorf("%s: whose word is it: got %d %v, want %d", path, got, err, want)
		}
	}
	if _, err := pidFileOwner(filepath.Join(dir, "open"), os.Geteuid(), lstat); !fault.Is(err, fault.Denied) || fault.HintOf(err) == "" {
		t.Errorf("a file that all may write: got %v, want it refused with a hint", err)
	}
	for path, want := range map[string]bool{app: true, run: true, filepath.Join(run, "sub"): true, filepath.Join(app, "lent"): false} {
		if _, err := ownWay(path, os.Geteuid(), lstat); (err == nil) != want || err != nil && (!fault.Is(err, fault.Denied) || fault.HintOf(err) == "") {
			t.Errorf("a way by a link of who owns it: %s: got %v", path, err)
		}
	}
	if err := mayTell(1234, os.Getpid(), "pid"); !fault.Is(err, fault.Denied) || fault.HintOf(err) == "" {
		t.Errorf("our process named by another user: got %v, want it refused with a hint", err)
	}
	if err := mayTell(os.Geteuid(), os.Getpid(), "pid"); err != nil {
		t.Errorf("our process named by us: %v", err)
	}
}

// A pid file that is a pipe nobody writes to stops nothing.
func TestPIDFileThatIsNone(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pid")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, err := readPID(pipe); done <- err }()
	select {
	case err := <-done:
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("got %v, want it refused", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("reading a pipe does not end")
	}
	child := exec.Command("sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(file, []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tell(file, syscall.SIGTERM); err != nil {
		t.Errorf("our own child: %v", err)
		_ = child.Process.Kill()
	}
	_ = child.Wait()
}
