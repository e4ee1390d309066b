// Package loopback tells whose a TCP connection inside this host is, as the kernel
// knows it. Which process holds it, and what that may do, is for others.
package loopback

import "errors"

// ErrUnknown says that the system cannot tell whose a connection is, or that the
// other side has closed it already.
var ErrUnknown = errors.New("owner of the connection is not known")

// Socket is the one at the other end.
type Socket struct {
	UID   uint32
	Inode uint32 // what /proc/PID/fd says as socket:[…]; 0 where it is not known
}
