//go:build !linux

package proxy

import "golang.org/x/sys/unix"

// hungUp says whether the other side has ended its half, if there is nothing
// left to read.
func hungUp(fd int) bool {
	var one [1]byte
	n, _, err := unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n == 0 && err == nil
}
