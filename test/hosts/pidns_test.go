//go:build hosts

package hosts

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// An agent in a pid namespace of its own cannot see who calls from outside it, and
// refuses. The kernel gives it a reference to that process all the same: what is
// refused must not use up the agent's files, or anybody ends its service.
func TestRefusedCallersOutsideThePidNamespaceCostTheAgentNoFiles(t *testing.T) {
	t.Parallel()
	h := lab.NewHost(t)
	h.Joined("acme.example").Stop()
	h.FindKith()
	outer := h.Start("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "kith", "agent")
	agent := 0
	lab.Eventually(t, lab.Soon, "the agent serves from inside", func() (err error) {
		if outer.Exited() {
			t.Fatalf("unshare ended:\n%s", outer.Output())
		}
		agent, err = onlyChild(outer.PID())
		if err == nil {
			_, err = os.Stat(h.AgentSocket())
		}
		return err
	})
	t.Cleanup(func() { _ = syscall.Kill(agent, syscall.SIGTERM) }) // unshare itself does not listen
	before := openFiles(t, agent)
	const calls = 40
	for range calls {
		refused(t, h.AgentSocket())
	}
	if out := h.Try("kith", "doctor").Stdout; !strings.Contains(out, "closed the connection before it answered") || !strings.Contains(out, "its log says why") {
		t.Errorf("kith doctor does not say that the agent refuses who asks:\n%s", out)
	}
	if out := outer.Output(); !strings.Contains(out, "the caller's process is not visible from here") || !strings.Contains(out, "hostPID: true") {
		t.Errorf("the agent's log does not say why and what to do:\n%s", out)
	}
	lab.Eventually(t, lab.Soon, "the agent lets go of who was refused", func() error {
		if after := openFiles(t, agent); after > before+calls/8 {
			return fmt.Errorf("%d open files before %d refused calls, %d after", before, calls, after)
		}
		return nil
	})
}

// refused connects and waits until the connection has been closed without a word.
func refused(t *testing.T, socket string) {
	t.Helper()
	conn, err := net.DialTimeout("unix", socket, lab.Soon)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(lab.Soon)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 64)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes and %v from an agent that cannot see who calls, want a closed connection", n, err)
	}
}

// onlyChild is the process that a process has started.
func onlyChild(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func openFiles(t *testing.T, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
