package host

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/loopback"
)

// maxLinks bounds the descriptors that are looked at to find who holds a socket.
const maxLinks = 1 << 18

// Dialer implements attest.Dialing. The kernel names the socket at the other end, and
// /proc the process that holds it. Where several hold it nobody can tell which one
// speaks, and the answer is none.
func (h *Host) Dialer(conn net.Conn) (attest.Peer, error) {
	socket, err := loopback.Owner(conn)
	if err != nil {
		return attest.Peer{}, fault.Wrap(fault.Denied, err)
	}
	link := "socket:[" + strconv.FormatUint(uint64(socket.Inode), 10) + "]"
	pid, err := holder(socket.UID, link)
	if err != nil {
		return attest.Peer{}, err
	}
	peer, err := h.Find(pid)
	if err != nil {
		return attest.Peer{}, err
	}
	// What was read by number before the process was held may have been another's.
	budget := maxLinks
	holds, err := holdsLink(pid, link, &budget)
	switch {
	case err != nil || !holds:
		err = gone(pid, "does not hold the connection any more")
	case peer.UID != socket.UID:
		err = gone(pid, "has changed its user")
	default:
		err = alive(peer)
	}
	if err != nil {
		peer.PIDFD.Close()
		return attest.Peer{}, err
	}
	return peer, nil
}

// holder is the one process of a user that has this link among its descriptors.
func holder(uid uint32, link string) (int32, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	found, budget := int32(0), maxLinks
	for _, name := range names {
		pid, err := strconv.ParseInt(name, 10, 32)
		if err != nil || !mayHold(name, uid) {
			continue
		}
		holds, err := holdsLink(int32(pid), link, &budget)
		switch {
		case budget <= 0:
			return 0, fault.Deniedf("user %d has more than %d descriptors, too many to look for a connection among them", uid, maxLinks)
		case err != nil || !holds: // it has ended, or is not ours to look into
		case found != 0:
			return 0, fault.Deniedf("processes %d and %d both hold the connection: which one asks cannot be told", found, pid)
		default:
			found = int32(pid)
		}
	}
	if found == 0 {
		return 0, fault.Hint(fault.Deniedf("no process of user %d that this agent may look into holds the connection", uid),
			"an agent that is not root knows its own user's processes only")
	}
	return found, nil
}

// mayHold is a cheap look at whose a process is: the directory belongs to its user,
// or to root if it is not dumpable.
func mayHold(name string, uid uint32) bool {
	var st unix.Stat_t
	return unix.Stat("/proc/"+name, &st) == nil && (st.Uid == uid || st.Uid == 0)
}

// holdsLink looks through the descriptors of a process.
func holdsLink(pid int32, link string, budget *int) (bool, error) {
	path := procPath(pid, "fd")
	dir, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if *budget--; *budget <= 0 {
				return false, errors.New("too many descriptors")
			}
			if to, err := os.Readlink(path + "/" + name); err == nil && to == link {
				return true, nil
			}
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}
