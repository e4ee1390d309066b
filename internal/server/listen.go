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

// listenUnix binds the socket that a key of kith.yaml names, with a mode; its
// directory may be shared with the agent's, which everybody may reach. A socket
// nobody answers on is of a server that was killed, and is replaced.
func listenUnix(key, path string, mode fs.FileMode) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fault.Hint(fault.Invalidf("%s: %s has %d bytes, at most %d fit in a socket address", key, path, len(path), maxSocketPath),
			"KITH_RUN_DIR with a shorter path")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("%s: directory: %w", key, err)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%s: %w", key, err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fault.Invalidf("%s: %s exists and is no socket", key, path)
	default:
		if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
			conn.Close()
			return nil, fault.Hint(fault.Conflictf("another server answers on %s", path), "stop it, or give this one a run directory of its own: KITH_RUN_DIR")
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("%s: remove the old socket: %w", key, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", key, err), l.Close())
	}
	return l, nil
}
