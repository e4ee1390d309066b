package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

func isAway(err error) bool { return errors.Is(err, registry.ErrAway) }

// parentVerb makes the test binary a server that opens a store and waits.
const parentVerb = "test-parent"

// runParent is that server: it says its member's pid and never ends by itself.
func runParent(dir string) error {
	e, err := OpenEtcd(context.Background(), Config{Dir: dir, MinFree: 1})
	if err != nil {
		return err
	}
	fmt.Println(e.child.pid())
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, e.Close())
}

// startParent starts such a server and returns its member's pid.
func startParent(t *testing.T, dir string) (server *exec.Cmd, member int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server = exec.Command(self, parentVerb, dir)
	server.Stderr = os.Stderr
	if _, err := server.StdinPipe(); err != nil { // held open until Wait
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("server said nothing: %v", err)
	}
	if _, err := fmt.Sscan(line, &member); err != nil {
		t.Fatal(err)
	}
	return server, member
}

// waitUnlocked waits until no member holds the directory.
func waitUnlocked(t *testing.T, dir string) {
	t.Helper()
	release, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatalf("the member is still there: %v", err)
	}
	release()
}

func TestMemberEndsWithItsServer(t *testing.T) {
	t.Parallel()
	dir := testConfig(t).Dir
	server, _ := startParent(t, dir)
	if err := server.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	waitUnlocked(t, dir)
}

// TestMemberEndsWhenItsPipeCloses starts a member without the kernel's help.
func TestMemberEndsWhenItsPipeCloses(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Binary = "" // this program, with the race detector if it has it
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prepareDir(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	member := exec.Command(cfg.Binary, append(MemberVerb(), "--dir", cfg.Dir)...)
	pipe, err1 := member.StdinPipe()
	out, err2 := member.StdoutPipe()
	if err := errors.Join(err1, err2, member.Start()); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != saidReady+"\n" {
		t.Fatalf("member said %q, %v", line, err)
	}
	pipe.Close()
	if err := member.Wait(); err != nil {
		t.Errorf("member ended with %v", err)
	}
}

func TestLockedDirectoryNamesItsHolder(t *testing.T) {
	t.Parallel()
	dir := testConfig(t).Dir
	server, member := startParent(t, dir)
	_, err := OpenEtcd(t.Context(), Config{Dir: dir, Log: testLog(t)})
	if !fault.Is(err, fault.Conflict) || fault.HintOf(err) == "" {
		t.Errorf("got %v, want a conflict with a hint", err)
	}
	want := fmt.Sprintf("process %d (store member of server process %d)", member, server.Process.Pid)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want it to name %s", err, want)
	}
}

func TestStartWaitsForTheFormerServer(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	server, _ := startParent(t, cfg.Dir)
	opened := make(chan error, 1)
	go func() {
		e, err := OpenEtcd(t.Context(), cfg)
		if err == nil {
			err = e.Close()
		}
		opened <- err
	}()
	if err := server.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Errorf("a start right after a crash: %v", err)
	}
}

func TestLongSocketPathIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", maxSocketPath))
	_, err := OpenEtcd(t.Context(), Config{Dir: dir})
	if !fault.Is(err, fault.Invalid) || !strings.Contains(fault.HintOf(err), "KITH_STATE_DIR") {
		t.Errorf("got %v (hint %q), want an invalid error that names KITH_STATE_DIR", err, fault.HintOf(err))
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the refused directory was made: %v", err)
	}
}

func TestOpenRunDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	if _, err := prepareDir(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(cfg.Dir, runName), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEtcd(t.Context(), cfg); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want an invalid error", err)
	}
}

func TestFirstStartFailureIsReported(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Binary = filepath.Join(cfg.Dir, "none")
	if _, err := OpenEtcd(t.Context(), cfg); err == nil || fault.HintOf(err) == "" {
		t.Errorf("got %v, want an error with a hint", err)
	}
	cfg = testConfig(t)
	if _, err := prepareDir(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, dataName, "member"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenEtcd(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "member") {
		t.Errorf("got %v, want the member's own reason", err)
	}
	waitUnlocked(t, cfg.Dir)
}

func TestCancelledOpenLeavesNothing(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenEtcd(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	waitUnlocked(t, cfg.Dir)
}

// TestAMemberThatEndsLeavesASnapshot shows that the next start need not read the
// log again, and finds everything. On a disk that stands still a member ends
// without; so one of some ends must have left one.
func TestAMemberThatEndsLeavesASnapshot(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	const least, most = 3, 20
	left := false
	for start := 0; start < least || !left && start < most; start++ {
		e, err := OpenEtcd(t.Context(), cfg)
		if err != nil {
			t.Fatalf("start %d: %v", start, err)
		}
		for earlier := range start {
			key := fmt.Sprintf("x/%d", earlier)
			if item, err := e.Get(t.Context(), key); err != nil || string(item.Value) != "one" {
				t.Errorf("start %d: %s is %q, %v", start, key, item.Value, err)
			}
		}
		before := snapshots(t, cfg.Dir)
		txn := registry.Txn{Do: []registry.Op{registry.Put(fmt.Sprintf("x/%d", start), []byte("one"))}}
		if version, err := e.Commit(t.Context(), txn); err != nil || version != registry.Version(start+1) {
			t.Errorf("start %d: committed at version %d, %v", start, version, err)
		}
		if err := e.Close(); err != nil {
			t.Fatalf("start %d: %v", start, err)
		}
		left = left || snapshots(t, cfg.Dir) > before
	}
	if !left {
		t.Error("no member that ended left a snapshot")
	}
}

func snapshots(t *testing.T, dir string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, dataName, "member", "snap", "*.snap"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}
