package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
)

// socket is the agent's listener. Closing it removes its path, unless another
// agent has put its own socket there.
type socket struct {
	*net.UnixListener
	path string
	info fs.FileInfo
}

func checkSocketPath(path string) error {
	if strings.Contains(path, "://") {
		return config.CheckSocketPath(path) // it says why not
	}
	if !filepath.IsAbs(path) {
		return fault.Invalidf("socket path %q is not absolute", path)
	}
	// It is bound under a short name in a directory of its own beside it.
	if bound := filepath.Join(filepath.Dir(path), ".k0000", "s"); len(bound) > len(path) {
		path = bound
	}
	return config.CheckSocketPath(path)
}

// listen binds the socket in a private directory and moves it to its place when
// it has its mode, so that nobody sees it half made and nobody else can put
// something in between.
func listen(path string) (*socket, error) { return listenAs(path, 0o666, -1) }

// listenAs is listen for a socket with a mode, and a group unless that is negative.
func listenAs(path string, mode os.FileMode, group int) (*socket, error) {
	dir := filepath.Dir(path)
	dirMode := os.FileMode(0o700)
	if os.Getuid() == 0 || group >= 0 {
		dirMode = 0o755
	}
	if err := prepareDir(dir, dirMode); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	private := filepath.Join(dir, ".k"+rand.Text()[:4])
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	defer os.Remove(private)
	bound := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: bound, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it will be elsewhere by then
	s := &socket{UnixListener: l, path: path}
	if err := s.place(bound, mode, group); err != nil {
		os.Remove(bound)
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return s, nil
}

// place opens the socket to whom its mode says, usually every local user: who may
// do what is decided by who connects. The directory keeps others out where that is
// wanted.
func (s *socket) place(bound string, mode os.FileMode, group int) error {
	if group >= 0 {
		if err := os.Lchown(bound, -1, group); err != nil {
			return err
		}
	}
	if err := os.Chmod(bound, mode); err != nil {
		return err
	}
	var err error
	if s.info, err = os.Lstat(bound); err != nil {
		return err
	}
	return os.Rename(bound, s.path)
}

// Close implements net.Listener; of no socket it does nothing.
func (s *socket) Close() error {
	if s == nil {
		return nil
	}
	if here, err := os.Lstat(s.path); err == nil && os.SameFile(here, s.info) {
		os.Remove(s.path)
	}
	return s.UnixListener.Close()
}

// prepareDir makes the socket's directory, and refuses one that others could
// put another socket into.
func prepareDir(dir string, mode os.FileMode) error {
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(dir, mode)
	}
	if err == nil {
		return os.Chmod(dir, mode) // whatever the umask
	}
	if !errors.Is(err, fs.ErrExist) {
		return fault.Hint(fmt.Errorf("make socket directory: %w", err), "KITH_RUN_DIR names another one")
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("socket directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fault.Invalidf("%s is not a directory", dir)
	case ok && st.Uid != uint32(os.Getuid()) && st.Uid != 0:
		return fault.Hint(fault.Deniedf("socket directory %s belongs to user %d", dir, st.Uid), "KITH_RUN_DIR names another one")
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fault.Hint(fault.Deniedf("socket directory %s can be written by others", dir), "chmod go-w %s", dir)
	}
	return nil
}

// removeStale removes a socket that nobody answers on, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fault.Conflictf("%s exists and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		conn.Close()
		return fault.Hint(fault.Conflictf("another agent answers on %s", path), "stop it, or choose another KITH_RUN_DIR")
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	return os.Remove(path)
}

// lockDir takes the state directory for this process alone. The lock goes with
// the process, however it ends.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.Hint(fault.Conflictf("another agent uses %s", filepath.Dir(path)), "kith status shows the one that runs")
		}
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	return f, nil
}
