package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/run/runtest"
)

// Process is a long-running command. All its output is in a file below log in
// its host's directory; the end of it is shown when the test fails.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	file string
	from int64 // where its output begins in file
	done chan struct{}
}

const (
	kept  = 256 << 10 // of a process's output, what Output gives
	shown = 32 << 10  // and what a failed test shows
)

// Start runs a command in its own process group until the test ends.
func (h *Host) Start(name string, args ...string) *Process {
	h.t.Helper()
	log, err := h.logFile(fmt.Sprintf("%s-%d", label(name, args), h.started.Add(1)))
	if err != nil {
		h.t.Fatal(err)
	}
	p, err := h.start(h.Command(context.Background(), name, args...), name+" "+strings.Join(args, " "), log)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { p.Stop(); p.show() })
	return p
}

// label is what a process's log file is called: its program and verb.
func label(name string, args []string) string {
	name = filepath.Base(name)
	if len(args) > 0 && !strings.ContainsAny(args[0], "/- ") {
		name += "-" + args[0]
	}
	return name
}

// logFile opens a file for output.
func (h *Host) logFile(label string) (*os.File, error) {
	dir := filepath.Join(h.Dir, "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(dir, label+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// start runs cmd with its output in log, which it closes; standard output only
// where cmd has none yet.
func (h *Host) start(cmd *exec.Cmd, name string, log *os.File) (*Process, error) {
	fmt.Fprintf(log, "--- %s %s\n", time.Now().Format(time.StampMilli), name)
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	p := &Process{t: h.t, name: name, cmd: cmd, file: log.Name(), from: from, done: make(chan struct{})}
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() {
		_ = cmd.Wait()
		fmt.Fprintf(log, "--- %s pid %d ended: %s\n", time.Now().Format(time.StampMilli), cmd.Process.Pid, cmd.ProcessState)
		_ = log.Close()
		close(p.done)
	}()
	return p, nil
}

// show shows the end of the output when the test has failed.
func (p *Process) show() {
	if p.t.Failed() {
		p.t.Logf("--- end of the output of %s; all of it is in %s\n%s", p.name, p.file, p.tail(shown))
	}
}

// tail is the end of the process's output.
func (p *Process) tail(limit int64) string {
	f, err := os.Open(p.file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	from := max(p.from, info.Size()-limit)
	text := make([]byte, max(info.Size()-from, 0))
	n, err := f.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return string(text[:n])
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has printed, both streams: the newest 256 KiB.
func (p *Process) Output() string { return p.tail(kept) }

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

// Port is a free TCP port of 127.0.0.1.
func Port(t testing.TB) int {
	t.Helper()
	port, err := runtest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
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

// ExitCode is what a program that has ended said; -1 for a signal.
func (p *Process) ExitCode() int {
	<-p.done
	return p.cmd.ProcessState.ExitCode()
}

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

// Slowness is how many times slower than an idle machine this one starts a
// program now, and at least 1: bounds in wall time are stretched by it.
func Slowness(t testing.TB) float64 {
	t.Helper()
	const idle = 40 * time.Millisecond // kith version, warm, on two idle cores
	bin, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for range 7 {
		begun := time.Now()
		if out, err := exec.Command(bin, "version").CombinedOutput(); err != nil {
			t.Fatalf("kith version: %v: %s", err, out)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return max(1, float64(took[len(took)/2])/float64(idle))
}
