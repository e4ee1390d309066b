package host

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
)

// capture knows on macOS the user, the pid and the process's start; there is no
// pidfd and no program number. It is enough for kith dev on one's own machine.
func (h *Host) capture(conn *net.UnixConn) (attest.Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return attest.Peer{}, err
	}
	var cred *unix.Xucred
	var pid int
	var credErr, pidErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
		pid, pidErr = unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	})
	if err := errors.Join(err, credErr, pidErr); err != nil {
		return attest.Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	peer, err := find(int32(pid))
	if err != nil {
		return attest.Peer{}, err
	}
	if peer.UID != cred.Uid {
		return attest.Peer{}, gone(peer.PID, "has changed its user")
	}
	return peer, nil
}

func find(pid int32) (attest.Peer, error) {
	info, err := unix.SysctlKinfoProc("kern.proc.pid", int(pid))
	if err != nil || info.Proc.P_pid != pid {
		return attest.Peer{}, gone(pid, "is gone")
	}
	return attest.Peer{
		PID: pid, UID: info.Eproc.Ucred.Uid, GID: info.Eproc.Ucred.Groups[0],
		Started: startOf(info),
	}, nil
}

func startOf(info *unix.KinfoProc) uint64 {
	return uint64(info.Proc.P_starttime.Sec)*1_000_000 + uint64(info.Proc.P_starttime.Usec)
}

// Check implements attest.Processes.
func (h *Host) Check(peer attest.Peer) error {
	now, err := find(peer.PID)
	if err != nil {
		return err
	}
	if now.Started != peer.Started {
		return gone(peer.PID, "is another process by now")
	}
	if now.UID != peer.UID {
		return gone(peer.PID, "has changed its user")
	}
	return nil
}

// Find implements attest.Processes.
func (h *Host) Find(pid int32) (attest.Peer, error) { return find(pid) }

// SameNumbers implements attest.Numbering: macOS has one numbering.
func (h *Host) SameNumbers(attest.Peer) error { return nil }

// Lineage implements attest.Processes.
func (h *Host) Lineage(peer attest.Peer) ([]attest.Process, error) {
	line := []attest.Process{peer.Process()}
	for len(line) < maxLineage {
		child := line[len(line)-1]
		info, err := unix.SysctlKinfoProc("kern.proc.pid", int(child.PID))
		if err != nil || startOf(info) != child.Started || info.Eproc.Ppid <= 0 {
			break
		}
		parent, err := find(info.Eproc.Ppid)
		if err != nil || parent.Started > child.Started {
			break
		}
		line = append(line, parent.Process())
	}
	return line, h.Check(peer)
}

// Inspect implements attest.Inspector.
func (h *Host) Inspect(ctx context.Context, peer attest.Peer) (registry.Attributes, error) {
	return h.InspectFor(ctx, peer, func(string) bool { return true })
}

// InspectFor implements attest.Sparing with what macOS tells without a helper:
// user and group.
func (h *Host) InspectFor(_ context.Context, peer attest.Peer, want func(string) bool) (registry.Attributes, error) {
	attrs := registry.Attributes{
		attrUID: registry.Int(int64(peer.UID)),
		attrGID: registry.Int(int64(peer.GID)),
	}
	if name := h.names.user(peer.UID); name != "" {
		attrs[attrUser] = name
	}
	if name := h.names.group(peer.GID); name != "" {
		attrs[attrGroup] = name
	}
	if want(attrPID) {
		attrs[attrPID] = registry.Int(int64(peer.PID))
	}
	return attrs, h.Check(peer)
}
