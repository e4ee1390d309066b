package kith

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// T6: another user who was first in /tmp answers there, and is no agent.
func TestSocketOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	shared, err := os.MkdirTemp("", "k") // short, and below nobody's umask
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(shared) })
	if err := os.Chmod(shared, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(shared, "kith-1")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	owner := os.Geteuid()
	if owner == 0 { // what is root's is trusted
		owner = 12345
		if err := os.Chown(dir, owner, -1); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkOwners(path, owner); err != nil {
		t.Errorf("one's own: %v", err)
	}
	if err := checkOwners(path, owner+1); !fault.Is(err, fault.Denied) {
		t.Errorf("another user's: %v", err)
	}
	if err := os.Chmod(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := checkOwners(filepath.Join(shared, "nobody", "agent.sock"), owner); err != nil {
		t.Errorf("nothing there: %v", err)
	}
}

// A percent sign in a socket's path stands for itself.
func TestSocketPathsAreNoURLs(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path, err := parseSocket("test", "unix://"+filepath.Join(dir, "100%41 %.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	conn, err := dialAgent(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Connect()
	if came, err := l.Accept(); err != nil {
		t.Errorf("nobody came to %s: %v", path, err)
	} else {
		came.Close()
	}
}
