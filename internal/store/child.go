package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// The pause before a member that ended is started again: short at first, since
// every write waits for it, and never so long that recovery takes 10 s.
const (
	firstPause  = 50 * time.Millisecond
	longestWait = 2 * time.Second
	steadyAfter = 500 * time.Millisecond // a member that ran this long is restarted at once

	// startAttempts is how often a member that is killed before it serves is
	// started again, and panicAttempts one that panics: raft does where its clock
	// has it campaign in the moment in which etcd drops what it has read. One that
	// says why it cannot is not: that will not pass.
	startAttempts = 10
	panicAttempts = 3
)

// child runs the member process and starts it again whenever it ends.
type child struct {
	binary string
	args   []string
	log    *slog.Logger
	health *healthBox
	stop   context.CancelFunc
	done   chan struct{} // closed when run has returned

	mu      sync.Mutex
	process *os.Process // guarded by mu; nil between members
}

// startChild starts the member and waits until it serves. Afterwards the
// member is restarted for as long as stop is not called.
func startChild(ctx context.Context, cfg Config, health *healthBox) (*child, error) {
	life, stop := context.WithCancel(context.Background())
	c := &child{
		binary: cfg.Binary, log: cfg.Log, health: health, stop: stop, done: make(chan struct{}),
		args: append(MemberVerb(), "--dir", cfg.Dir, "--quota", strconv.FormatInt(cfg.Quota, 10)),
	}
	first := make(chan error, 1)
	go c.run(life, first)
	select {
	case err := <-first:
		if err == nil {
			return c, nil
		}
		c.close()
		return nil, err
	case <-ctx.Done():
		c.close()
		return nil, fmt.Errorf("start store member: %w", ctx.Err())
	}
}

// run is the supervisor. The first member's fate goes to first, later ones'
// to the health. Pdeathsig fires when the *thread* that forked ends, so this
// goroutine owns its thread and outlives every member it starts.
func (c *child) run(ctx context.Context, first chan<- error) {
	defer close(c.done)
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	report := func(err error) {
		if first != nil {
			first <- err
			first = nil
		}
	}
	pause, before := firstPause, ""
	for attempt := 1; ; attempt++ {
		started := time.Now()
		err := c.runOnce(ctx, func() {
			c.health.back()
			report(nil)
		})
		if ctx.Err() != nil {
			report(ctx.Err())
			return
		}
		if first != nil && attempt >= attempts(err) {
			report(err)
			return
		}
		c.health.away("the store member ended and is started again: " + err.Error())
		level := slog.LevelWarn
		if err.Error() == before { // once is enough for a loop
			level = slog.LevelDebug
		}
		before = err.Error()
		c.log.Log(ctx, level, "store member ended", "err", err, "restart_in", pause)
		if time.Since(started) > steadyAfter {
			pause = firstPause
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, longestWait)
	}
}

// runOnce starts one member and returns when it has ended, saying why. ready
// is called when it serves.
func (c *child) runOnce(ctx context.Context, ready func()) error {
	hold, ours, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start store member: %w", err)
	}
	defer ours.Close()
	cmd := exec.Command(c.binary, c.args...)
	cmd.Stdin = hold // the member ends when the other side, ours alone, closes
	cmd.SysProcAttr = childAttributes()
	cmd.Env = memberEnv()
	stdout, err1 := cmd.StdoutPipe()
	stderr, err2 := cmd.StderrPipe()
	if err := errors.Join(err1, err2); err != nil {
		hold.Close()
		return fmt.Errorf("start store member: %w", err)
	}
	err = cmd.Start()
	hold.Close()
	if err != nil {
		return fault.Hint(fmt.Errorf("start store member: %w", err), "is %s still there?", c.binary)
	}
	c.setProcess(cmd.Process)
	var words memberWords
	var readers sync.WaitGroup
	readers.Go(func() { words.listen(stdout, ready) })
	readers.Go(func() { words.forward(stderr, c.log) })
	ended := make(chan struct{})
	readers.Go(func() { stopWhen(ctx, ended, ours, cmd.Process) })
	state, err := cmd.Process.Wait()
	c.setProcess(nil)
	close(ended)
	readers.Wait()
	_ = cmd.Wait() // frees the pipes; the process itself is waited for already
	if err != nil {
		return fmt.Errorf("wait for store member: %w", err)
	}
	return words.reason(state.String())
}

// memberEnv is all of our environment that the member gets to see: what the Go
// runtime and its instruments read. Passphrases and addresses are none of its
// business.
func memberEnv() []string {
	env := []string{}
	for _, name := range []string{"GODEBUG", "GOTRACEBACK", "GOMAXPROCS", "GOMEMLIMIT", "GORACE", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func (c *child) setProcess(p *os.Process) {
	c.mu.Lock()
	c.process = p
	c.mu.Unlock()
}

// stopWhen asks the member to end when ctx does, by closing its pipe, and
// kills it if it takes too long.
func stopWhen(ctx context.Context, ended <-chan struct{}, pipe io.Closer, p *os.Process) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	pipe.Close()
	select {
	case <-ended:
	case <-time.After(memberStopLimit + time.Second):
		_ = p.Kill()
	}
}

// close ends the member and waits for it.
func (c *child) close() {
	c.stop()
	<-c.done
}

// pid is the running member's process id, or 0.
func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return 0
	}
	return c.process.Pid
}

// stands says whether the member was stopped by a signal.
func (c *child) stands() bool {
	pid := c.pid()
	return pid != 0 && stopped(pid)
}

// memberWords keeps what a member said last, which tells why it ended.
type memberWords struct {
	mu     sync.Mutex
	locked string // guarded by mu
	failed string // guarded by mu
	worst  string // guarded by mu; what it logged as its end
}

// listen reads the member's standard output to its end.
func (w *memberWords) listen(r io.Reader, ready func()) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if line == saidReady {
			ready()
			continue
		}
		w.mu.Lock()
		if holder, ok := strings.CutPrefix(line, saidLocked); ok {
			w.locked = holder
		} else if reason, ok := strings.CutPrefix(line, saidFailed); ok {
			w.failed = reason
		}
		w.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // an overlong line ends the scanner, not the pipe
}

// reason is the error of a member that ended.
func (w *memberWords) reason(state string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.locked != "":
		return fault.Hint(fault.Conflictf("the store directory is in use by %s", w.locked),
			"stop the other server, or give this one its own state directory")
	case w.failed != "":
		return fmt.Errorf("%s", w.failed)
	case w.worst != "":
		return panicError{state, w.worst}
	default:
		return killedError{state}
	}
}

// attempts is how often a first start is tried that ends so.
func attempts(err error) int {
	var killed killedError
	var panicked panicError
	switch {
	case errors.As(err, &killed):
		return startAttempts
	case errors.As(err, &panicked):
		return panicAttempts
	default:
		return 1
	}
}

// panicError is the end of a member that logged what ended it.
type panicError struct{ state, worst string }

func (p panicError) Error() string { return p.state + ": " + p.worst }

// killedError is the end of a member that said nothing about it: somebody
// killed it.
type killedError struct{ state string }

func (k killedError) Error() string { return "store member ended without a word: " + k.state }
