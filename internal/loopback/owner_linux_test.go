package loopback

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// T36: whoever sends a request and closes at once shall not be taken for root,
// whom the kernel names as the owner of a closed socket.
func TestAClosedConnectionHasNoOwner(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	conn, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	theirs, ours := netip.MustParseAddrPort(conn.LocalAddr().String()), netip.MustParseAddrPort(conn.RemoteAddr().String())
	if _, err := io.WriteString(conn, "POST http://orders/ HTTP/1.1\r\nHost: orders\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	accepted, err := inner.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	if owner, err := Owner(accepted); err == nil {
		t.Errorf("the closed connection belongs to user %d", owner.UID)
	}
	if owner, err := readTable(theirs, ours); err == nil {
		t.Errorf("by the table, it belongs to user %d", owner.UID)
	}
}

// connected is a connection inside this host, both ends.
func connected(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close() })
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, theirs
}

// The kernel names user and inode, by its answer and by its table alike.
func TestOwnerOfALocalConnection(t *testing.T) {
	ours, theirs := connected(t)
	owner, err := Owner(ours)
	if err != nil || int(owner.UID) != os.Getuid() || owner.Inode == 0 {
		t.Errorf("got %+v, %v, want user %d", owner, err, os.Getuid())
	}
	table, err := readTable(netip.MustParseAddrPort(theirs.LocalAddr().String()), netip.MustParseAddrPort(theirs.RemoteAddr().String()))
	if err != nil || table != owner {
		t.Errorf("by the table: got %+v, %v, want %+v", table, err, owner)
	}
}

func FuzzParseDiag(f *testing.F) {
	theirs, ours := netip.MustParseAddrPort("127.0.0.1:1000"), netip.MustParseAddrPort("127.0.0.1:2000")
	f.Add(make([]byte, 100))
	f.Add(diagRequest(theirs, ours))
	answer := make([]byte, unix.NLMSG_HDRLEN+diagAnswerSize)
	binary.NativeEndian.PutUint16(answer[4:], sockDiagByFamily)
	binary.BigEndian.PutUint16(answer[unix.NLMSG_HDRLEN+4:], theirs.Port())
	binary.BigEndian.PutUint16(answer[unix.NLMSG_HDRLEN+6:], ours.Port())
	f.Add(bytes.Clone(answer)) // of a socket that was closed
	answer[unix.NLMSG_HDRLEN+diagInode] = 7
	f.Add(answer)
	f.Fuzz(func(t *testing.T, answer []byte) {
		got, err := parseDiag(answer, theirs, ours)
		ports := []byte{1000 >> 8, 1000 & 255, 2000 >> 8, 2000 & 255}
		if err == nil && (len(answer) < unix.NLMSG_HDRLEN+diagAnswerSize || got.Inode == 0 || !bytes.Equal(answer[unix.NLMSG_HDRLEN+4:][:4], ports)) {
			t.Errorf("%x is an answer of %+v", answer, got)
		}
	})
}
