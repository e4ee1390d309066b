package lab

import (
	"context"
	"io"
	"sync"
	"syscall"
	"time"
)

// restartPause is RestartSec of the units in packaging/.
const restartPause = time.Second

// Service is a program that is started again whenever it ends, as systemd does,
// until the test ends.
type Service struct {
	Label string

	host    *Host
	command func() []string
	lines   io.Writer
	quit    chan struct{}
	done    chan struct{}

	mu      sync.Mutex
	current *Process      // guarded by mu; nil while nothing runs
	held    bool          // guarded by mu; it is not to be started
	wake    chan struct{} // closed and replaced when held or current change; guarded by mu
	killed  bool          // guarded by mu; the end of current was our doing
	ends    []Ending      // guarded by mu
}

// Ending is a program that ended by itself.
type Ending struct {
	At    time.Time
	State string
	Last  string // the end of its output
}

// Supervise runs the command that command returns, which is asked before each
// start, with its output in the log of the label; lines gets its standard output
// in place of the log, unless it is nil.
func (h *Host) Supervise(label string, lines io.Writer, command func() []string) *Service {
	h.t.Helper()
	s := &Service{
		Label: label, host: h, command: command, lines: lines,
		quit: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}),
	}
	go s.run()
	h.t.Cleanup(func() {
		close(s.quit)
		p := s.Hold()
		<-s.done
		if p != nil {
			p.show()
		}
	})
	return s
}

// run starts the program whenever it should run and does not.
func (s *Service) run() {
	defer close(s.done)
	for {
		s.mu.Lock()
		held, wake := s.held, s.wake
		s.mu.Unlock()
		if held {
			select {
			case <-wake:
				continue
			case <-s.quit:
				return
			}
		}
		s.runOnce()
		pause := time.NewTimer(restartPause)
		select {
		case <-pause.C:
		case <-wake: // started by hand: at once
		case <-s.quit:
		}
		pause.Stop()
		select {
		case <-s.quit:
			return
		default:
		}
	}
}

// runOnce runs the program to its end.
func (s *Service) runOnce() {
	args := s.command()
	log, err := s.host.logFile(s.Label)
	if err != nil {
		s.ended(Ending{At: time.Now(), State: err.Error()})
		return
	}
	s.mu.Lock()
	if s.held {
		s.mu.Unlock()
		log.Close()
		return
	}
	cmd := s.host.Command(context.Background(), args[0], args[1:]...)
	cmd.Stdout, cmd.WaitDelay = s.lines, time.Second
	p, err := s.host.start(cmd, s.Label, log)
	s.current, s.killed = p, false
	s.mu.Unlock()
	if err != nil {
		s.ended(Ending{At: time.Now(), State: err.Error()})
		return
	}
	<-p.Done()
	s.ended(Ending{At: time.Now(), State: p.cmd.ProcessState.String(), Last: p.tail(4 << 10)})
}

// ended notes that nothing runs any more, and why unless we ended it.
func (s *Service) ended(e Ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = nil
	if !s.killed {
		s.ends = append(s.ends, e)
	}
}

// PID is the running process, or 0.
func (s *Service) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return 0
	}
	return s.current.PID()
}

// Output is what the running process has printed.
func (s *Service) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return ""
	}
	return s.current.Output()
}

// end does something that ends the running process, without waiting for it.
func (s *Service) end(how func(*Process)) *Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.current
	if p == nil {
		return nil
	}
	s.killed = true
	how(p)
	return p
}

// Kill sends SIGKILL to the process alone; it is started again.
func (s *Service) Kill() {
	s.end(func(p *Process) { p.Signal(syscall.SIGKILL) })
}

// Restart asks the process to end; it is started again.
func (s *Service) Restart() {
	s.end(func(p *Process) { p.Signal(syscall.SIGTERM) })
}

// Signal sends a signal that does not end the process.
func (s *Service) Signal(signal syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current != nil {
		s.current.Signal(signal)
	}
}

// Hold ends the program, its whole process group in the end, and keeps it so. It
// returns what ran, or nil.
func (s *Service) Hold() *Process {
	s.mu.Lock()
	s.held = true
	close(s.wake)
	s.wake = make(chan struct{})
	s.mu.Unlock()
	p := s.end(func(*Process) {})
	if p != nil {
		p.Stop()
	}
	return p
}

// Release starts a program that is held.
func (s *Service) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	close(s.wake)
	s.wake = make(chan struct{})
}

// TakeEndings is how the program has ended by itself since it was asked last.
func (s *Service) TakeEndings() []Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	ends := s.ends
	s.ends = nil
	return ends
}
