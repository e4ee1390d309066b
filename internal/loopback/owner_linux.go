package loopback

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Owner is the socket at the other end, asked of the kernel's sock_diag by the
// connection's four numbers, or read from /proc/net/tcp where that is not built in.
func Owner(conn net.Conn) (Socket, error) {
	theirs, err1 := netip.ParseAddrPort(conn.RemoteAddr().String())
	ours, err2 := netip.ParseAddrPort(conn.LocalAddr().String())
	if err1 != nil || err2 != nil {
		return Socket{}, ErrUnknown
	}
	theirs = netip.AddrPortFrom(theirs.Addr().Unmap(), theirs.Port())
	ours = netip.AddrPortFrom(ours.Addr().Unmap(), ours.Port())
	found, err := askKernel(theirs, ours)
	if err == nil || errors.Is(err, ErrUnknown) {
		return found, err
	}
	found, fallback := readTable(theirs, ours)
	if fallback != nil {
		return Socket{}, fmt.Errorf("sock_diag: %w; /proc/net/tcp: %w", err, fallback)
	}
	return found, nil
}

// The wire form of struct inet_diag_req_v2 and inet_diag_msg (linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	diagRequestSize  = 56
	diagAnswerSize   = 72
	diagUID          = 64 // offset of idiag_uid in the answer
	diagInode        = 68 // offset of idiag_inode
	noCookie         = 0xff
)

// askKernel looks up the socket of the other side: its source is our peer.
func askKernel(theirs, ours netip.AddrPort) (Socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return Socket{}, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return Socket{}, err
	}
	if err := unix.Sendto(fd, diagRequest(theirs, ours), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Socket{}, err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return Socket{}, err
	}
	return parseDiag(answer[:n], theirs, ours)
}

func diagRequest(theirs, ours netip.AddrPort) []byte {
	message := make([]byte, unix.NLMSG_HDRLEN+diagRequestSize)
	native := binary.NativeEndian
	native.PutUint32(message[0:], uint32(len(message)))
	native.PutUint16(message[4:], sockDiagByFamily)
	native.PutUint16(message[6:], unix.NLM_F_REQUEST)
	body := message[unix.NLMSG_HDRLEN:]
	body[0], body[1] = unix.AF_INET, unix.IPPROTO_TCP
	if theirs.Addr().Is6() {
		body[0] = unix.AF_INET6
	}
	native.PutUint32(body[4:], ^uint32(0)) // every state
	id := body[8:]
	binary.BigEndian.PutUint16(id[0:], theirs.Port())
	binary.BigEndian.PutUint16(id[2:], ours.Port())
	copy(id[4:20], theirs.Addr().AsSlice())
	copy(id[20:36], ours.Addr().AsSlice())
	for i := 40; i < 48; i++ {
		id[i] = noCookie
	}
	return message
}

// parseDiag reads the one answer, and checks that it is about our connection. A
// socket without an inode has been closed already; the kernel then says that it
// is root's, and whoever it was must not come in by that.
func parseDiag(answer []byte, theirs, ours netip.AddrPort) (Socket, error) {
	native := binary.NativeEndian
	if len(answer) < unix.NLMSG_HDRLEN+4 {
		return Socket{}, ErrUnknown
	}
	body := answer[unix.NLMSG_HDRLEN:]
	switch native.Uint16(answer[4:]) {
	case unix.NLMSG_ERROR:
		if code := int32(native.Uint32(body)); code < 0 {
			return Socket{}, unix.Errno(-code)
		}
		return Socket{}, ErrUnknown
	case sockDiagByFamily:
	default:
		return Socket{}, ErrUnknown
	}
	if len(body) < diagAnswerSize ||
		binary.BigEndian.Uint16(body[4:]) != theirs.Port() || binary.BigEndian.Uint16(body[6:]) != ours.Port() {
		return Socket{}, ErrUnknown
	}
	if native.Uint32(body[diagInode:]) == 0 {
		return Socket{}, ErrUnknown
	}
	return Socket{UID: native.Uint32(body[diagUID:]), Inode: native.Uint32(body[diagInode:])}, nil
}

// readTable looks the connection up in /proc/net/tcp.
func readTable(theirs, ours netip.AddrPort) (Socket, error) {
	path := "/proc/net/tcp"
	if theirs.Addr().Is6() {
		path = "/proc/net/tcp6"
	}
	file, err := os.Open(path)
	if err != nil {
		return Socket{}, err
	}
	defer file.Close()
	local, remote := tableAddress(theirs), tableAddress(ours)
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && fields[1] == local && fields[2] == remote {
			uid, err1 := strconv.ParseUint(fields[7], 10, 32)
			inode, err2 := strconv.ParseUint(fields[9], 10, 32)
			if inode == 0 && err2 == nil { // closed already, see parseDiag
				err2 = ErrUnknown
			}
			return Socket{UID: uint32(uid), Inode: uint32(inode)}, errors.Join(err1, err2)
		}
	}
	if err := lines.Err(); err != nil {
		return Socket{}, err
	}
	return Socket{}, ErrUnknown
}

// tableAddress is an address as the table prints it: words of the machine's
// byte order in hexadecimal.
func tableAddress(at netip.AddrPort) string {
	raw := at.Addr().AsSlice()
	words := make([]byte, len(raw))
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(words[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	return strings.ToUpper(hex.EncodeToString(words)) + ":" + fmt.Sprintf("%04X", at.Port())
}
