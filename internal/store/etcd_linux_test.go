package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFrozenMemberDiesWithItsServer needs the kernel: a frozen process reads
// no pipe.
func TestFrozenMemberDiesWithItsServer(t *testing.T) {
	t.Parallel()
	dir := testConfig(t).Dir
	server, member := startParent(t, dir)
	if err := syscall.Kill(member, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitUnlocked(t, dir)
}

// TestMemberHasNoNetworkSocket looks at every socket the member holds.
func TestMemberHasNoNetworkSocket(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	e := openEtcd(t, cfg)
	if _, err := putOne(t.Context(), e, "a/x", "one"); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d", e.child.pid())
	fds, err := filepath.Glob(proc + "/fd/*")
	if err != nil || len(fds) == 0 {
		t.Fatalf("read fds: %d, %v", len(fds), err)
	}
	held := map[string]bool{}
	for _, fd := range fds {
		link, _ := os.Readlink(fd) // one that was closed meanwhile is no socket of interest
		if inode, ok := strings.CutPrefix(link, "socket:["); ok {
			held[strings.TrimSuffix(inode, "]")] = true
		}
	}
	if len(held) == 0 {
		t.Error("the member holds no socket at all")
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile(proc + "/net/" + table)
		if err != nil {
			continue // no IPv6 here
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && held[fields[9]] {
				t.Errorf("the member has a %s socket: %s", table, line)
			}
		}
	}
	info, err := os.Stat(filepath.Join(cfg.Dir, runName))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("run directory is %v, %v; want 0700", info.Mode(), err)
	}
}

// TestWriteErrorsEndTheMember lets no file of the member grow, so that its
// engine meets what a full disk is to it. It must not acknowledge what it
// could not write; a fresh member goes on.
func TestWriteErrorsEndTheMember(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	if _, err := putOne(t.Context(), e, "a/x", "one"); err != nil {
		t.Fatal(err)
	}
	pid := e.child.pid()
	limit := unix.Rlimit{Cur: 0, Max: 0}
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		t.Fatal(err)
	}
	version, err := putOne(t.Context(), e, "a/x", "two")
	if err != nil || version != 2 {
		t.Fatalf("got version %d, %v; want 2", version, err)
	}
	if e.child.pid() == pid {
		t.Error("the member survived a write error")
	}
	if item, err := e.Get(t.Context(), "a/x"); err != nil || string(item.Value) != "two" {
		t.Errorf("got %q, %v", item.Value, err)
	}
}

// A member that stands still answers nothing, and nobody is to wait for a limit
// to say so (bar 13). Once it goes on, so does the store.
func TestMemberThatStandsStillIsAway(t *testing.T) {
	t.Parallel()
	e := openEtcd(t, testConfig(t))
	pid := e.child.pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	go func() {
		_, err := putOne(ctx, e, "a/x", "one")
		failed <- err
	}()
	for e.Health().Reason != standsStill {
		_, changed := e.health.get()
		if e.Health().Reason == standsStill {
			break
		}
		select {
		case <-changed:
		case err := <-failed:
			t.Fatalf("the commit ended first: %v", err)
		}
	}
	cancel()
	if err := <-failed; err == nil {
		t.Error("a member that stands still has acknowledged a commit")
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for {
		h, changed := e.health.get()
		if h.State == OK {
			break
		}
		<-changed
	}
	if _, err := putOne(t.Context(), e, "a/y", "two"); err != nil {
		t.Errorf("after it went on: %v", err)
	}
	if e.child.pid() != pid {
		t.Error("the member was started again, want the same one")
	}
}

// A member whose server is gone will end, even if it hangs in a sync of a slow
// disk: a new server waits for it.
func TestStartWaitsForADyingMember(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ourChild := holder{os.Getpid(), os.Getppid()}
	if ourChild.dying() {
		t.Errorf("%s ends, while its parent is there", ourChild)
	}
	orphan := holder{os.Getpid(), 1<<22 + 1} // no process has such a number
	if !orphan.dying() {
		t.Errorf("%s does not end, though its parent is gone", orphan)
	}
	if _, err := fmt.Fprintf(f, "%-10d %-10d\n", orphan.member, orphan.server); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(lockWait+time.Second, func() { f.Close() })
	defer timer.Stop()
	began := time.Now()
	release, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatalf("after %s: %v", time.Since(began), err)
	}
	release()
	if waited := time.Since(began); waited < lockWait {
		t.Errorf("the lock was taken after %s, while it was held", waited)
	}
}
