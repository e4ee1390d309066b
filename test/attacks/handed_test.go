//go:build attacks

package attacks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hand connects to the Workload API, hands the connection to a child, and then
// stays as it is, becomes another program, or ends.
func hand(socket, gate, then string) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	if _, err := http2.NewFramer(nil, conn).ReadFrame(); err != nil { // it was accepted, and who we are was looked at
		return err
	}
	file, err := conn.File()
	if err != nil {
		return err
	}
	child := exec.Command(os.Args[0], gate)
	child.Env = append(os.Environ(), "ATTACK_ROLE=asks")
	child.ExtraFiles, child.Stdout, child.Stderr = []*os.File{file}, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // or our number would stay taken
	if err := child.Start(); err != nil {
		return err
	}
	switch then {
	case "ends":
		return nil
	case "stays":
		return child.Wait()
	}
	return syscall.Exec(then, []string{then, "infinity"}, os.Environ())
}

// asks waits for the gate to open and asks for SVIDs on the connection that was
// handed to it.
func asks(gate string) error {
	if _, err := os.ReadFile(gate); err != nil { // a fifo
		return err
	}
	conn, err := net.FileConn(os.NewFile(3, "handed"))
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(lab.Soon)); err != nil {
		return err
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"},
		{Name: ":scheme", Value: "http"},
		{Name: ":path", Value: "/SpiffeWorkloadAPI/FetchX509SVID"},
		{Name: ":authority", Value: "localhost"},
		{Name: "content-type", Value: "application/grpc"},
		{Name: "te", Value: "trailers"},
		{Name: "workload.spiffe.io", Value: "true"},
	} {
		_ = enc.WriteField(f) // into memory
	}
	frames := http2.NewFramer(conn, conn)
	err = errors.Join(frames.WriteSettingsAck(), frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
		frames.WriteData(1, true, make([]byte, 5)))
	dec, said := hpack.NewDecoder(4096, nil), ""
	for err == nil {
		var f http2.Frame
		if f, err = frames.ReadFrame(); err != nil {
			break
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			fields, _ := dec.DecodeFull(f.HeaderBlockFragment())
			said += fmt.Sprint(fields)
			if f.StreamEnded() {
				err = io.EOF
			}
		case *http2.DataFrame:
			said += string(f.Data())
			err = io.EOF
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			err = io.EOF
		}
	}
	fmt.Printf("asked: %q %v\n", said, err)
	return nil
}

// denied is PermissionDenied among the fields of an answer, as asks prints them.
const denied = `\"grpc-status\" = \"7\"`

// handed is a user's attacker whose child holds the connection, and what it is
// told when the gate opens.
type handed struct {
	t       *testing.T
	h       *lab.Host
	gate    string
	process *lab.Process
	legit   string // a program that has an identity
}

func newHanded(t *testing.T, then string) *handed {
	t.Helper()
	found, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	legit, err := filepath.EvalSymlinks(found)
	if err != nil {
		t.Fatal(err)
	}
	a := &handed{t: t, h: lab.NewHost(t), legit: legit}
	a.h.Dev()
	role := self(t, a.h, "hand")
	a.h.Kith("apply", "-f", a.h.WriteFile("ids.yaml", fmt.Sprintf(`identities:
  - {name: legit, nodes: [dev], id: /dev/legit, require: 'workload.unix.path == "%s" && workload.unix.uid == %s'}
  - {name: attacker, nodes: [dev], id: /dev/attacker, require: 'workload.unix.path == "%s" && workload.unix.uid == %s'}
`, legit, stranger, role[2], stranger)))
	a.gate = filepath.Join(a.h.Dir, "gate")
	if err := syscall.Mkfifo(a.gate, 0o600); err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(stranger)
	if err := os.Chown(a.gate, uid, uid); err != nil {
		t.Fatal(err)
	}
	if then == "execs" {
		then = legit
	}
	a.process = a.h.Start("setpriv", asUser(stranger, append(role, a.h.AgentSocket(), a.gate, then)...)...)
	return a
}

// told opens the gate and returns what the agent answered.
func (a *handed) told() string {
	a.t.Helper()
	lab.Eventually(a.t, lab.Soon, "the child waits at the gate", func() error {
		gate, err := os.OpenFile(a.gate, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			err = gate.Close()
		}
		return err
	})
	lab.Eventually(a.t, 2*lab.Soon, "the child was answered", func() error {
		if out := a.process.Output(); !strings.Contains(out, "asked:") {
			return fmt.Errorf("output: %s", out)
		}
		return nil
	})
	return a.process.Output()
}

// T2: whoever connects, hands the connection to a child and becomes a program
// that has an identity gets none: neither that one nor its own.
func TestThreatT02AnotherProgramAfterConnecting(t *testing.T) {
	if got := newHanded(t, "stays").told(); !strings.Contains(got, "spiffe://dev.kith.local/dev/attacker") {
		t.Fatalf("who stays what it was has its own identity: got %s", got)
	}
	a := newHanded(t, "execs")
	lab.Eventually(t, lab.Soon, "the attacker is another program", func() error {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", a.process.PID())); err != nil || exe != a.legit {
			return fmt.Errorf("it is %s, %v", exe, err)
		}
		return nil
	})
	if got := a.told(); strings.Contains(got, "spiffe://") || !strings.Contains(got, denied) {
		t.Errorf("an identity was given away: %s", got)
	}
}

// T1: the process that connected has ended, and its number is that of another
// one, of a program that has an identity, when the connection is asked on.
func TestThreatT01NumberUsedAgain(t *testing.T) {
	a := newHanded(t, "ends")
	lab.Eventually(t, lab.Soon, "the process that connected has ended", func() error {
		if !a.process.Exited() {
			return errors.New("it runs")
		}
		return nil
	})
	a.again(a.process.PID())
	if got := a.told(); strings.Contains(got, "spiffe://") || !strings.Contains(got, denied) {
		t.Errorf("an identity was given away: %s", got)
	}
}

// again starts the program that has an identity under a number that was another's.
func (a *handed) again(number int) {
	a.t.Helper()
	uid, _ := strconv.Atoi(stranger)
	lab.Eventually(a.t, 4*lab.Soon, "the number is used again", func() error {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(number-1)), 0); err != nil {
			return err
		}
		legit := exec.Command(a.legit, "infinity")
		legit.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		if err := legit.Start(); err != nil {
			return err
		}
		if legit.Process.Pid == number {
			a.t.Cleanup(func() { _ = legit.Process.Kill(); _ = legit.Wait() })
			return nil
		}
		err := fmt.Errorf("got %d, want %d", legit.Process.Pid, number)
		return errors.Join(err, legit.Process.Kill(), func() error { _ = legit.Wait(); return nil }())
	})
}
