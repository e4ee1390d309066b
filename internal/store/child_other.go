//go:build !linux

package store

import (
	"errors"
	"syscall"
)

// maxSocketPath is what sun_path holds, less its final zero.
const maxSocketPath = 103

// childAttributes puts the member into its own process group. Only the pipe
// ends it with the server here.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// parentOf is not known here: whoever holds a lock is taken to go on.
func parentOf(int) (int, error) { return 0, errors.ErrUnsupported }

// stopped is not known here; the probes find out in seconds.
func stopped(int) bool { return false }
