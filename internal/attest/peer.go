package attest

import (
	"context"
	"net"
	"os"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Peer is the process at the other end of a local socket, as it was when the
// connection was accepted. A pid alone names nobody: it is always taken
// together with Started, and with the pidfd where the system has one.
type Peer struct {
	PID int32
	UID uint32
	GID uint32
	// Started is the process's start in clock ticks since boot.
	Started uint64
	// Exe is the program file; the zero Program where it could not be read.
	Exe Program
	// PIDFD refers to this very process, whatever becomes of its number; nil on
	// systems without it. It is owned by whoever captured the peer and may be
	// closed at any moment, which makes every later check fail.
	PIDFD *os.File
}

// Program names a program file by what cannot be renamed.
type Program struct {
	Dev, Inode uint64
}

// Process is a pid together with its start: unique until the next boot.
type Process struct {
	PID     int32
	Started uint64
}

// Process is who the peer is, without what was found out about it.
func (p Peer) Process() Process { return Process{PID: p.PID, Started: p.Started} }

// Inspector says who is on the socket: workload.* attributes that were measured
// and none that the peer said. A process that is gone or is no longer the one
// captured is a Denied error, never attributes of another one. The attributes
// may be shared: the caller does not change them.
type Inspector interface {
	Inspect(ctx context.Context, peer Peer) (registry.Attributes, error)
}

// Sparing is an Inspector that measures a costly attribute only when it is
// wanted.
type Sparing interface {
	Inspector
	InspectFor(ctx context.Context, peer Peer, want func(attribute string) bool) (registry.Attributes, error)
}

// Processes knows the local processes. Its methods do not block for long and
// are safe for concurrent use.
type Processes interface {
	// Check says nil when the peer is still the process that was captured,
	// running the same program under the same user; otherwise a Denied error.
	Check(peer Peer) error
	// Find captures a running process by its number. The caller closes its PIDFD.
	Find(pid int32) (Peer, error)
	// Lineage is the process and its ancestors, nearest first, as far as they
	// can be followed without doubt.
	Lineage(peer Peer) ([]Process, error)
}

// Numbering is Processes that know whether another process counts as they do.
type Numbering interface {
	// SameNumbers says nil when a process id means the same process to the peer as
	// here, because it is in the same pid namespace; otherwise a Denied error.
	SameNumbers(peer Peer) error
}

// Dialing is Processes that know who has made a TCP connection inside this host.
type Dialing interface {
	// Dialer captures the process at the other end of a connection that was accepted;
	// one that is not known for certain is a Denied error. It may take some
	// milliseconds. The caller closes its PIDFD.
	Dialer(conn net.Conn) (Peer, error)
}

// Peered is the gRPC AuthInfo (or any other record of a connection) that knows
// the process on the other end.
type Peered interface {
	Peer() Peer
}

// Objects knows the objects of a control plane that are workloads of this node, such
// as its pods. What it says is a second or two old at most.
type Objects interface {
	// Object finds an object. One of a kind that is not known here is an Invalid
	// error; one that is not there, or has another UID than the one that is asked
	// for, NotFound; and Away that nobody could be asked.
	Object(ctx context.Context, ref spiffe.KubernetesObject) (Object, error)
}

// Object is what is known of an object: its UID, which is nobody else's ever, and
// workload.* attributes. They may be shared: the caller does not change them.
type Object struct {
	UID        string
	Attributes registry.Attributes
}

// Away is the error of whoever had to ask somebody that did not answer: what is so is
// not known, and may be known soon.
type Away struct{ Err error }

// Error implements error.
func (a Away) Error() string { return a.Err.Error() }

// Unwrap is the reason.
func (a Away) Unwrap() error { return a.Err }
