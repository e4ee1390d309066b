// Package run starts the long-lived parts of a program in order, stops them in
// reverse and speaks to the service manager; it knows nothing of what they do.
package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// DefaultDrain bounds a stop when Config.Drain is zero. It stays below the 90 s
// after which systemd kills.
const DefaultDrain = 30 * time.Second

// Part is one thing that lives as long as the program.
type Part struct {
	// Name appears in logs and errors.
	Name string
	// Run blocks until ctx ends or the part fails. Returning at all stops the
	// group: with the error if there is one, cleanly if it is nil.
	Run func(ctx context.Context) error
	// Ready, if set, is closed once the part serves; the next part starts only then.
	Ready <-chan struct{}
}

// Config is the life of a group.
type Config struct {
	// Log gets one line when the group is up and one when it stops; nil is silent.
	Log *slog.Logger
	// Drain is how long all parts together may take to stop; 0 is DefaultDrain.
	Drain time.Duration
	// Notify tells the service manager READY and STOPPING; the zero Notifier tells nobody.
	Notify Notifier
	// OnReady is called once every part is ready; may be nil.
	OnReady func()
}

// started is a part that runs, with the handle that stops it.
type started struct {
	part Part
	stop context.CancelFunc
	done chan struct{} // closed after err is set
	err  error
}

// Group runs the parts until one of them returns or ctx ends, and returns the
// first error. Parts start in the order given, each after the one before is
// ready, and stop in reverse: what was started last is gone before what it
// stands on is told to go. A group stopped by ctx returns nil unless a part
// fails while stopping.
func Group(ctx context.Context, cfg Config, parts ...Part) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Drain <= 0 {
		cfg.Drain = DefaultDrain
	}
	ended := make(chan *started, len(parts))
	up, first := start(ctx, parts, ended)
	if first == nil && ctx.Err() == nil {
		if cfg.OnReady != nil {
			cfg.OnReady()
		}
		cfg.Notify.Ready(cfg.Log)
		cfg.Log.Debug("all parts started", "parts", len(parts))
		select {
		case first = <-ended:
		case <-ctx.Done():
		}
	}
	cfg.Notify.Stopping(cfg.Log)
	cfg.Log.Info("stopping", "reason", reason(ctx, first))
	return errors.Join(stop(up, first, cfg.Drain)...)
}

// start launches the parts; it returns early with the part that ended before
// all were ready.
func start(ctx context.Context, parts []Part, ended chan<- *started) ([]*started, *started) {
	// Cancelled one by one in reverse, so no part may inherit ctx's end.
	base := context.WithoutCancel(ctx)
	var up []*started
	for _, p := range parts {
		if ctx.Err() != nil {
			return up, nil
		}
		partCtx, cancel := context.WithCancel(base)
		s := &started{part: p, stop: cancel, done: make(chan struct{})}
		up = append(up, s)
		go func() {
			s.err = p.Run(partCtx)
			close(s.done)
			ended <- s // never blocks: one slot a part
		}()
		if p.Ready == nil {
			continue
		}
		select {
		case <-p.Ready:
		case <-s.done:
			return up, s
		case <-ctx.Done():
			return up, nil
		}
	}
	return up, nil
}

// stop ends the parts last to first within the limit and collects their errors,
// the one that caused the stop in front.
func stop(up []*started, first *started, drain time.Duration) []error {
	var errs []error
	if first != nil && first.err != nil {
		errs = append(errs, named(first))
	}
	limit := time.NewTimer(drain)
	defer limit.Stop()
	var late []string
	for i := len(up) - 1; i >= 0; i-- {
		s := up[i]
		s.stop()
		select {
		case <-s.done:
		default:
			select {
			case <-s.done:
			case <-limit.C:
				limit.Reset(0) // the limit is one for all: later waits end at once
				late = append(late, s.part.Name)
				continue
			}
		}
		if s != first && s.err != nil && !errors.Is(s.err, context.Canceled) {
			errs = append(errs, named(s))
		}
	}
	if len(late) > 0 {
		errs = append(errs, fmt.Errorf("still running %v after stop: %s", drain, strings.Join(late, ", ")))
	}
	return errs
}

// named says which part an error is from, once.
func named(s *started) error { return fmt.Errorf("%s: %w", s.part.Name, s.err) }

// reason is why the group stops, for the log.
func reason(ctx context.Context, first *started) string {
	switch {
	case first != nil && first.err != nil:
		return named(first).Error()
	case first != nil:
		return first.part.Name + " ended"
	default:
		return context.Cause(ctx).Error()
	}
}
