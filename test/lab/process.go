package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a long-running command; its output is kept and shown when the
// test fails.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  *buffer
	done chan struct{}
}

// buffer keeps the newest 256 KiB of a process's output.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() > 256<<10 {
		b.b.Next(b.b.Len() - 128<<10)
	}
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Start runs a command in its own process group until the test ends.
func (h *Host) Start(name string, args ...string) *Process {
	h.t.Helper()
	return h.start(h.Command(context.Background(), name, args...), name, args)
}

func (h *Host) start(cmd *exec.Cmd, name string, args []string) *Process {
	h.t.Helper()
	p := &Process{t: h.t, name: name + " " + strings.Join(args, " "), cmd: cmd, out: new(buffer), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		h.t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	h.t.Cleanup(func() {
		p.Stop()
		if h.t.Failed() {
			h.t.Logf("--- output of %s\n%s", p.name, p.Output())
		}
	})
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has printed, both streams.
func (p *Process) Output() string { return p.out.String() }

// Exited reports whether the process has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill sends SIGKILL to the process alone, as a crash would, and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Stop asks the process to end, then ends its whole group.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// Eventually asks again until ok, or fails the test with the last reason.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-tick.C
	}
}

// Port is a TCP port of 127.0.0.1 that was free a moment ago.
func Port(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// WaitPort waits until something accepts on 127.0.0.1:port of the host's network.
func (h *Host) WaitPort(port int) {
	h.t.Helper()
	Eventually(h.t, 30*time.Second, fmt.Sprintf("port %d accepts", port), func() error {
		if h.NetNS != "" {
			if r := h.Try("bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", port)); r.Code != 0 {
				return fmt.Errorf("%s", strings.TrimSpace(r.Stderr))
			}
			return nil
		}
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// Dev starts `kith dev` on the host and waits until it answers.
func (h *Host) Dev(args ...string) *Process {
	h.t.Helper()
	p := h.Start("kith", append([]string{"dev"}, args...)...)
	h.WaitReady(p)
	return p
}

// WaitReady waits until the server on the host answers.
func (h *Host) WaitReady(p *Process) {
	h.t.Helper()
	Eventually(h.t, 30*time.Second, "kith is ready", func() error {
		if p != nil && p.Exited() {
			h.t.Fatalf("%s ended:\n%s", p.name, p.Output())
		}
		if r := h.Try("kith", "nodes"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
}

// Soon is long enough for anything that should take milliseconds, on a machine
// that is busy with something else.
const Soon = 30 * time.Second

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// KillGroup sends SIGKILL to the process and all it started, and waits.
func (p *Process) KillGroup() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// KeepRunning fails the test when the process has already ended.
func (p *Process) KeepRunning(t testing.TB) {
	t.Helper()
	if p.Exited() {
		t.Fatalf("%s ended:\n%s", p.name, p.Output())
	}
}
