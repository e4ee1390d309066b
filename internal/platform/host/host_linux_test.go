package host

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
)

// TestMain lets the test binary be the process on the socket as well.
func TestMain(m *testing.M) {
	switch os.Getenv("KITH_HOST_TEST") {
	case "connect":
		connectAndWait(false)
	case "exec":
		connectAndWait(true)
	default:
		goleak.VerifyTestMain(m)
	}
}

// connectAndWait connects and lives until standard input ends; with exec it
// keeps the connection and becomes another program, when told to.
func connectAndWait(become bool) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // not close-on-exec
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: os.Getenv("KITH_HOST_SOCKET")})
	}
	if err != nil {
		os.Exit(3)
	}
	if become {
		bufio.NewReader(os.Stdin).ReadString('\n')
		_ = syscall.Exec("/bin/cat", []string{"cat"}, nil)
		os.Exit(4)
	}
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// caller is a process that has connected, as the server sees it.
type caller struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	conn  net.Conn
	peer  attest.Peer
}

func connect(t *testing.T, mode string) *caller {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KITH_HOST_TEST="+mode, "KITH_HOST_SOCKET="+path)
	c := &caller{cmd: cmd}
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end() })
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, info, err := New(time.Now).Credentials().ServerHandshake(raw)
	if err != nil {
		t.Fatalf("capture: %v", err)
	}
	t.Cleanup(func() { conn.Close() })
	c.conn, c.peer = conn, info.(attest.Peered).Peer()
	return c
}

func (c *caller) end() {
	c.stdin.Close()
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func wantDenied(t *testing.T, err error, what string) {
	t.Helper()
	if !fault.Is(err, fault.Denied) {
		t.Errorf("%s: got %v, want a Denied error", what, err)
	}
}

func TestPeerIsTheProcessOnTheSocket(t *testing.T) {
	c := connect(t, "connect")
	if int(c.peer.PID) != c.cmd.Process.Pid || c.peer.UID != uint32(os.Getuid()) || c.peer.PIDFD == nil {
		t.Errorf("got %+v, want pid %d of user %d with a pidfd", c.peer, c.cmd.Process.Pid, os.Getuid())
	}
	h := New(time.Now)
	if err := h.Check(c.peer); err != nil {
		t.Errorf("check of a living process: %v", err)
	}
	attrs, err := h.Inspect(context.Background(), c.peer)
	if err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	for name, want := range map[string]string{
		attrUID: strconv.Itoa(os.Getuid()), attrGID: strconv.Itoa(os.Getgid()),
		attrPath: self, attrSHA256: hex.EncodeToString(sum[:]), attrPID: "",
	} {
		if attrs[name] != want {
			t.Errorf("%s: got %q, want %q", name, attrs[name], want)
		}
	}
	if err := attrs.Validate(); err != nil {
		t.Error(err)
	}
}

func TestCostlyAttributesOnlyWhenWanted(t *testing.T) {
	c := connect(t, "connect")
	attrs, err := New(time.Now).InspectFor(context.Background(), c.peer, func(name string) bool { return name == attrPID })
	if err != nil {
		t.Fatal(err)
	}
	if attrs[attrSHA256] != "" || attrs[attrPID] != strconv.Itoa(c.cmd.Process.Pid) {
		t.Errorf("got %v, want the pid and no sha256", attrs)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	all, err := New(time.Now).Inspect(context.Background(), c.peer)
	if err != nil {
		t.Fatal(err)
	}
	var ids []uint32
	for _, gid := range groups {
		ids = append(ids, uint32(gid))
	}
	if want := New(time.Now).groupList(ids); attrs[attrGroups] != "" || all[attrGroups] != want {
		t.Errorf("groups: got %q unasked and %q asked for, want none and %q", attrs[attrGroups], all[attrGroups], want)
	}
}

// What the pidfd says of the owner is what /proc says, on kernels where it does.
func TestPIDFDAndProcNameTheSameOwner(t *testing.T) {
	c := connect(t, "connect")
	held, err := ownerOf(c.peer)
	if err != nil {
		t.Fatal(err)
	}
	unheld := c.peer
	unheld.PIDFD = nil
	read, err := ownerOf(unheld)
	if err != nil {
		t.Fatal(err)
	}
	if held.uid != read.uid || held.gid != read.gid {
		t.Errorf("pidfd: %d:%d, /proc: %d:%d", held.uid, held.gid, read.uid, read.gid)
	}
}

// T2: a process connects, then becomes another program. Pid and start are the
// same; only the program file tells.
func TestExecAfterConnectIsRefused(t *testing.T) {
	c := connect(t, "exec")
	h := New(time.Now)
	if err := h.Check(c.peer); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Readlink("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/exe")
	io.WriteString(c.stdin, "\n")
	for {
		now, err := os.Readlink("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/exe")
		if err != nil {
			t.Fatal(err)
		}
		if now != before {
			break
		}
	}
	wantDenied(t, h.Check(c.peer), "check after exec")
	_, err := h.Inspect(context.Background(), c.peer)
	wantDenied(t, err, "inspect after exec")
}

// T1: the number of an ended process is nobody, whoever has it now.
func TestEndedProcessIsRefused(t *testing.T) {
	c := connect(t, "connect")
	c.end()
	h := New(time.Now)
	wantDenied(t, h.Check(c.peer), "check of an ended process")
	_, err := h.Inspect(context.Background(), c.peer)
	wantDenied(t, err, "inspect of an ended process")
	reused := c.peer
	reused.PID = int32(os.Getpid()) // as if the kernel had given the number away
	wantDenied(t, h.Check(reused), "check of a reused number")
	self, err := h.Find(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer self.PIDFD.Close()
	reused.Started, reused.Exe = self.Started, self.Exe // even with the same start and program
	wantDenied(t, h.Check(reused), "check of a reused number with the old pidfd")
}

func TestChangedUserOrClosedConnectionIsRefused(t *testing.T) {
	c := connect(t, "connect")
	other := c.peer
	other.UID++
	wantDenied(t, New(time.Now).Check(other), "check under another user")
	c.conn.Close()
	wantDenied(t, New(time.Now).Check(c.peer), "check after the connection was closed")
}

func TestWithoutPeerPIDFDAYoungerProcessIsRefused(t *testing.T) {
	pid := int32(os.Getpid())
	st, err := readStat(pid)
	if err != nil {
		t.Fatal(err)
	}
	cred := &unix.Ucred{Pid: pid, Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())}
	open := func() int {
		fd, err := unix.PidfdOpen(int(pid), 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	h := New(time.Now)
	peer, err := h.identify(cred, open(), st.started)
	if err != nil {
		t.Fatalf("started before the connection: %v", err)
	}
	peer.PIDFD.Close()
	for range 2 { // the second time the start is remembered
		_, err = h.identify(cred, open(), st.started-1)
		wantDenied(t, err, "started after the connection")
	}
}

// T3: a program without a file of its own has neither path nor hash.
func TestThreatT03DeletedAndMemoryProgramsHaveNoPath(t *testing.T) {
	text, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "cat")
	if err := os.WriteFile(copied, text, 0o755); err != nil {
		t.Fatal(err)
	}
	memory, err := unix.MemfdCreate("cat", 0)
	if err != nil {
		t.Fatal(err)
	}
	inMemory := os.NewFile(uintptr(memory), "memfd")
	defer inMemory.Close()
	if _, err := inMemory.Write(text); err != nil {
		t.Fatal(err)
	}
	for name, cmd := range map[string]*exec.Cmd{
		"deleted": exec.Command(copied),
		"memory":  {Path: "/proc/self/fd/3", Args: []string{"cat"}, ExtraFiles: []*os.File{inMemory}},
	} {
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "deleted" {
			os.Remove(copied)
		}
		h := New(time.Now)
		peer, err := h.Find(int32(cmd.Process.Pid))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		attrs, err := h.Inspect(context.Background(), peer)
		if err != nil || attrs[attrPath] != "" || attrs[attrSHA256] != "" || attrs[attrUID] == "" {
			t.Errorf("%s: got %v, %v, want a user and neither path nor sha256", name, attrs, err)
		}
		peer.PIDFD.Close()
		stdin.Close()
		_ = cmd.Wait()
	}
}

func TestOddProgramNamesAreLeftOut(t *testing.T) {
	text, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a\xffb", "a\nb", "a\x01b"} {
		odd := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(odd, text, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(odd)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		h := New(time.Now)
		peer, err := h.Find(int32(cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		attrs, err := h.Inspect(context.Background(), peer)
		if err != nil || attrs[attrPath] != "" || attrs.Validate() != nil {
			t.Errorf("%q: got %q, %v", name, attrs, err)
		}
		peer.PIDFD.Close()
		stdin.Close()
		_ = cmd.Wait()
	}
}

func TestLineageFollowsParents(t *testing.T) {
	c := connect(t, "connect")
	line, err := New(time.Now).Lineage(c.peer)
	if err != nil {
		t.Fatal(err)
	}
	st, err := readStat(int32(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	self := attest.Process{PID: int32(os.Getpid()), Started: st.started}
	if len(line) < 2 || line[0] != c.peer.Process() || line[1] != self {
		t.Errorf("got %v, want %v and then %v", line, c.peer.Process(), self)
	}
	c.end()
	_, err = New(time.Now).Lineage(c.peer)
	wantDenied(t, err, "lineage of an ended process")
}

func TestCredentialsRefuseOtherSockets(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	if _, _, err := New(time.Now).Credentials().ServerHandshake(a); err == nil {
		t.Error("got a peer from a pipe")
	}
}
