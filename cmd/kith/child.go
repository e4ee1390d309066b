package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/fault"
)

// child is the program behind kith run.
type child struct {
	cmd     *exec.Cmd
	signals chan os.Signal
	onTerm  func()        // called before the program is asked to end
	done    chan struct{} // closed when the program has ended; err is set then
	err     error
}

// forwarded are the signals that a program expects from whoever runs it.
var forwarded = [...]os.Signal{
	unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH, unix.SIGCONT,
}

// startChild starts the program with our terminal. Its orphans become our
// children, so that the claim of the service name still covers them; and it is
// told to end if we are killed, because without us nothing speaks for it.
func (a *app) startChild(command, env []string) (*child, error) {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil, noProgram(command[0], err)
	}
	if err := adoptOrphans(); err != nil {
		return nil, err
	}
	c := &child{
		cmd:     &exec.Cmd{Path: path, Args: command, Env: env, Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, SysProcAttr: endWithParent()},
		signals: make(chan os.Signal, 16),
		done:    make(chan struct{}),
	}
	signal.Notify(c.signals, forwarded[:]...)
	started := make(chan error)
	go func() {
		// The kernel sends the parent-death signal when the starting thread ends,
		// so this thread has to live as long as the program.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		signal.Stop(c.signals)
		return nil, noProgram(command[0], err)
	}
	return c, nil
}

// wait forwards signals and reaps orphans until the program ends, and returns
// its outcome. When ctx ends the program is asked to end, and waited for.
func (c *child) wait(ctx context.Context) error {
	defer signal.Stop(c.signals)
	stopReaping := reapOrphans(c.cmd.Process.Pid)
	defer stopReaping()
	asked := ctx.Done()
	for {
		select {
		case <-c.done:
			return c.err
		case s := <-c.signals:
			c.forward(s)
		case <-asked:
			asked = nil
			c.forward(unix.SIGTERM)
		}
	}
}

// forward passes a signal on. What the terminal's keys send goes to the whole
// foreground group, the program included, and must not arrive twice.
func (c *child) forward(s os.Signal) {
	if (s == unix.SIGINT || s == unix.SIGQUIT || s == unix.SIGWINCH) && onTerminal() {
		return
	}
	if s == unix.SIGTERM && c.onTerm != nil {
		c.onTerm()
	}
	// The only error is that it has just ended, which wait sees by itself.
	_ = c.cmd.Process.Signal(s)
}

// onTerminal says whether our group is in the foreground of a terminal.
func onTerminal() bool {
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// noProgram is the error for a program that cannot be started; 127 and 126 are
// what a shell says in its place.
func noProgram(name string, err error) error {
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fault.Hint(fault.NotFoundf("there is no program %s", name), "give its path, as in: kith run --as orders -- ./orders")
	case errors.Is(err, fs.ErrPermission):
		return fault.Hint(fault.Deniedf("%s may not be executed", name), "chmod +x %s", name)
	case errors.Is(err, syscall.ENOEXEC):
		return fault.Invalidf("%s is no program of this machine", name)
	}
	return fmt.Errorf("start %s: %w", name, err)
}
