// Package runtest finds what tests of running programs need of the host.
package runtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"syscall"
)

// The ports given out lie below those that the kernel gives to outgoing
// connections (32768 and up), else one of these takes a port between its being
// found free and its being listened on.
const firstPort, portsGiven = 12_000, 18_000

// FreePort is a TCP port of 127.0.0.1 on which nothing listens, and which nobody
// else who asks here is given while this process lives. Safe for concurrent use.
func FreePort() (int, error) {
	for range 200 {
		port := firstPort + rand.IntN(portsGiven)
		if !claimed(port) {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port from %d on", firstPort)
}

// claimed marks a port as this process's own, by a socket that is bound until
// the process ends; false if another has it.
func claimed(port int) bool {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return false
	}
	syscall.CloseOnExec(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: fmt.Sprintf("@kith-test-port-%d", port)}); err != nil {
		syscall.Close(fd) //nolint:errcheck // it was never used
		return false
	}
	return true
}
