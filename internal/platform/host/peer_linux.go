package host

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
)

// capture finds out who connected.
//
// It runs on the stack of a new connection, on which gRPC has taken most of 4 KiB
// by then: with one frame for what follows each other, that stack had to grow a
// second time, which cost a fetch more than all it asks here of the kernel.
func (h *Host) capture(conn *net.UnixConn) (attest.Peer, error) {
	end := otherEnd{pidfd: -1}
	if err := end.ask(conn); err != nil {
		if end.pidfd >= 0 { // the kernel gives one for a process that is refused as well
			unix.Close(end.pidfd)
		}
		return attest.Peer{}, err
	}
	return h.identify(&end.cred, end.pidfd, end.youngest)
}

// otherEnd is whom the kernel names as the other end of a connection.
type otherEnd struct {
	cred     unix.Ucred
	pidfd    int    // -1: none has been opened
	youngest uint64 // the latest that the process may have started
}

// ask asks the kernel. Its own reference to the process (SO_PEERPIDFD, Linux 6.5)
// cannot be fooled by a reused number. Without it a pidfd is opened by number and
// the process must not be younger than the accepted connection.
func (c *otherEnd) ask(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr, fdErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		var pidfd int
		if pidfd, fdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD); fdErr == nil {
			c.pidfd = pidfd
		}
	})
	if err := errors.Join(err, credErr); err != nil {
		return fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Pid <= 0 { // in a pid namespace that is not ours or below ours
		return fault.Hint(fault.Deniedf("the caller's process is not visible from here"),
			"run kith agent in the host's pid namespace; for a pod that is hostPID: true")
	}
	c.cred, c.youngest = *cred, math.MaxUint64
	switch {
	case fdErr == nil: // the kernel closes it on exec, as it does what pidfd_open gives
	case errors.Is(fdErr, unix.ENOPROTOOPT) || errors.Is(fdErr, unix.EINVAL):
		if c.youngest, err = ticksSinceBoot(); err != nil {
			return err
		}
		pidfd, err := unix.PidfdOpen(int(cred.Pid), 0)
		if err != nil {
			return gone(cred.Pid, "is gone")
		}
		c.pidfd = pidfd
	default:
		return gone(cred.Pid, "is gone")
	}
	return nil
}

// identify fills in what is compared at every later check. A process that has
// started after youngest is not the one that is meant.
func (h *Host) identify(cred *unix.Ucred, pidfd int, youngest uint64) (attest.Peer, error) {
	peer := attest.Peer{
		PID: cred.Pid, UID: cred.Uid, GID: cred.Gid,
		PIDFD: os.NewFile(uintptr(pidfd), "pidfd"),
	}
	if err := h.complete(&peer, pidfd, youngest); err != nil {
		peer.PIDFD.Close()
		return attest.Peer{}, err
	}
	return peer, nil
}

// complete finds out start and program of a process that is held.
func (h *Host) complete(peer *attest.Peer, pidfd int, youngest uint64) error {
	number, err := numberOf(pidfd)
	if err != nil {
		return err
	}
	started, known := h.births.get(number)
	if !known {
		st, err := readStat(peer.PID)
		if err != nil {
			return gone(peer.PID, "is gone")
		}
		started = st.started
	}
	if started > youngest {
		return gone(peer.PID, "is younger than its connection")
	}
	peer.Started = started
	if peer.Exe, err = programOf(peer.PID); err != nil {
		return gone(peer.PID, "has no program file")
	}
	own, err := ownerOf(*peer)
	if err != nil {
		return gone(peer.PID, "is gone")
	}
	if own.uid != peer.UID {
		return gone(peer.PID, "has changed its user")
	}
	if err := alive(*peer); err != nil { // so all of it was about this process
		return err
	}
	if !known && isNumbered(pidfd) {
		h.births.put(number, started)
	}
	return nil
}

// numberOf is the number of a pidfd's process, if isNumbered.
func numberOf(pidfd int) (processNumber, error) {
	var st unix.Stat_t
	if _, err := retried(func() (int, error) { return 0, unix.Fstat(pidfd, &st) }); err != nil {
		return processNumber{}, fmt.Errorf("number of a process: %w", err)
	}
	return processNumber{st.Dev, st.Ino}, nil
}

// isNumbered says whether the inode of a pidfd is its process's alone until the
// next boot. It is since Linux 6.9, with pidfs, and where an inode has 64 bits;
// before, all pidfds have the same one.
func isNumbered(pidfd int) bool {
	var fs unix.Statfs_t
	_, err := retried(func() (int, error) { return 0, unix.Fstatfs(pidfd, &fs) })
	return err == nil && fs.Type == unix.PID_FS_MAGIC && strconv.IntSize == 64
}

// Check implements attest.Processes.
func (h *Host) Check(peer attest.Peer) error {
	_, err := check(peer)
	return err
}

// check says who owns the process, if it is still the one that connected. The
// pidfd is asked last: if it is alive then, everything read by number before
// was about this process, as a number is not given away while it is.
func check(peer attest.Peer) (owner, error) {
	own, err := ownerOf(peer)
	if err != nil {
		return owner{}, gone(peer.PID, "is gone")
	}
	if own.uid != peer.UID {
		return owner{}, gone(peer.PID, "has changed its user")
	}
	exe, err := programOf(peer.PID)
	if err != nil {
		return owner{}, gone(peer.PID, "is gone")
	}
	if exe != peer.Exe {
		return owner{}, gone(peer.PID, "runs another program by now")
	}
	return own, alive(peer)
}

// ownerOf is whose process it is now. The pidfd tells it in one call since Linux
// 6.13; the text under /proc costs ten times as much, and each message to a
// workload asks three times.
func ownerOf(peer attest.Peer) (owner, error) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_CREDS}
	told := false
	if peer.PIDFD != nil {
		raw, err := peer.PIDFD.SyscallConn()
		if err != nil {
			return owner{}, err
		}
		err = raw.Control(func(fd uintptr) { told = unix.IoctlPidfdInfo(int(fd), &info) == nil })
		if err != nil {
			return owner{}, err
		}
	}
	if !told || info.Mask&unix.PIDFD_INFO_CREDS == 0 {
		return readOwner(peer.PID)
	}
	if int32(info.Tgid) != peer.PID {
		return owner{}, gone(peer.PID, "is another process by now")
	}
	return owner{uid: info.Euid, gid: info.Egid}, nil
}

func alive(peer attest.Peer) error {
	if peer.PIDFD == nil {
		return gone(peer.PID, "is not held")
	}
	raw, err := peer.PIDFD.SyscallConn()
	if err != nil {
		return gone(peer.PID, "is no longer connected")
	}
	var ended bool
	var pollErr error
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(fds, 0)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			ended, pollErr = n > 0, err
			return
		}
	})
	switch {
	case err != nil:
		return gone(peer.PID, "is no longer connected")
	case pollErr != nil:
		return fmt.Errorf("watch process %d: %w", peer.PID, pollErr)
	case ended:
		return gone(peer.PID, "has ended")
	}
	return nil
}

// SameNumbers implements attest.Numbering.
func (h *Host) SameNumbers(peer attest.Peer) error {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return fmt.Errorf("own pid namespace: %w", err)
	}
	its, err := os.Readlink(procPath(peer.PID, "ns/pid"))
	if err != nil {
		return gone(peer.PID, "has no pid namespace that can be read")
	}
	if own != its {
		return gone(peer.PID, "is in another pid namespace")
	}
	return alive(peer) // so it was about this process
}

// Find implements attest.Processes.
func (h *Host) Find(pid int32) (attest.Peer, error) {
	if pid <= 0 {
		return attest.Peer{}, gone(pid, "does not exist")
	}
	pidfd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return attest.Peer{}, gone(pid, "does not exist")
	}
	own, err := readOwner(pid)
	if err != nil {
		unix.Close(pidfd)
		return attest.Peer{}, gone(pid, "does not exist")
	}
	return h.identify(&unix.Ucred{Pid: pid, Uid: own.uid, Gid: own.gid}, pidfd, math.MaxUint64)
}

// Lineage implements attest.Processes. A parent is never younger than its
// child; the child's parent is read again once the parent is known, so that a
// process whose parent ended meanwhile is not given a stranger's number.
func (h *Host) Lineage(peer attest.Peer) ([]attest.Process, error) {
	line := []attest.Process{peer.Process()}
	for len(line) < maxLineage {
		child := line[len(line)-1]
		before, err := readStat(child.PID)
		if err != nil || before.started != child.Started || before.parent <= 0 {
			break
		}
		parent, err := readStat(before.parent)
		if err != nil || parent.started > child.Started {
			break
		}
		after, err := readStat(child.PID)
		if err != nil || after.parent != before.parent || after.started != child.Started {
			break
		}
		line = append(line, attest.Process{PID: before.parent, Started: parent.started})
	}
	return line, alive(peer)
}

// ticksSinceBoot is the boot clock in the unit of /proc/PID/stat, rounded up.
func ticksSinceBoot() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("boot clock: %w", err)
	}
	const perSecond = 100 // USER_HZ is 100 on every architecture Go runs on
	return uint64(ts.Nano())/uint64(time.Second/perSecond) + 1, nil
}
