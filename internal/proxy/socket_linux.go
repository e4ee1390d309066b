package proxy

import "golang.org/x/sys/unix"

// hungUp says whether the other side has ended its half, even if there is
// something left to read.
func hungUp(fd int) bool {
	ask := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(ask, 0)
	return err == nil && n > 0
}
