package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

const maxSocketPath = 107 // sun_path, less its closing zero

// listenTCP binds the node API. A dev server stays on loopback: its state is
// thrown away and anybody may declare services.
func listenTCP(address string, dev bool) (net.Listener, error) {
	if dev {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fault.Invalidf("server.listen: %w", err)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, fault.Hint(fault.Invalidf("kith dev listens on loopback only, not on %s", address), "kith server, for other hosts")
		}
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fault.Hint(fault.Conflictf("%s is taken by another process", address), "ss -ltnp 'sport = :%s', or server.listen with another port", portOf(address))
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

func portOf(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return port
}

// listenUnix binds the admin socket, mode 0600; its directory is shared with the
// agent's, which everybody may reach. A socket nobody answers on is of a server
// that was killed, and is replaced.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fault.Hint(fault.Invalidf("server.socket: %s has %d bytes, at most %d fit in a socket address", path, len(path), maxSocketPath),
			"KITH_RUN_DIR with a shorter path")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("directory of the admin socket: %w", err)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("admin socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fault.Invalidf("server.socket: %s exists and is no socket", path)
	default:
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			return nil, fault.Hint(fault.Conflictf("another server answers on %s", path), "stop it, or give this one a run directory of its own: KITH_RUN_DIR")
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the old admin socket: %w", err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket: %w", err), l.Close())
	}
	return l, nil
}
