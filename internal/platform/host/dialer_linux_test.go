package host

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// dialled is a connection inside this host, and the file of its other end.
func dialled(t *testing.T) (ours net.Conn, theirs *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return ours, conn.(*net.TCPConn)
}

// Who made a TCP connection inside this host is the process that holds its other
// end, and nobody once two hold it, or none.
func TestDialerIsWhoHoldsTheOtherEnd(t *testing.T) {
	h := New(time.Now)
	ours, theirs := dialled(t)
	peer, err := h.Dialer(ours)
	if err != nil || int(peer.PID) != os.Getpid() || int(peer.UID) != os.Getuid() || h.Check(peer) != nil {
		t.Fatalf("got %+v, %v, want this process, %d", peer, err, os.Getpid())
	}
	peer.PIDFD.Close()

	file, err := theirs.File() // a second descriptor of the same socket
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{file}
	stdin, err := child.StdinPipe()
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Dialer(ours)
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "both hold") {
		t.Errorf("two processes hold it: got %v, want a denial", err)
	}

	file.Close()
	theirs.Close()
	peer, err = h.Dialer(ours)
	if err != nil || int(peer.PID) != child.Process.Pid {
		t.Errorf("got %+v, %v, want the child, %d, which alone holds it", peer, err, child.Process.Pid)
	}
	if err == nil {
		peer.PIDFD.Close()
	}
	stdin.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if peer, err := h.Dialer(ours); fault.KindOf(err) != fault.Denied {
		t.Errorf("nobody holds it: got %+v, %v, want a denial", peer, err)
	}
}

// A connection from another host, or that is no TCP, is nobody's here.
func TestDialerKnowsThisHostAlone(t *testing.T) {
	h := New(time.Now)
	one, two := net.Pipe()
	defer one.Close()
	defer two.Close()
	if peer, err := h.Dialer(one); err == nil {
		t.Errorf("a pipe: got %+v", peer)
	}
}
