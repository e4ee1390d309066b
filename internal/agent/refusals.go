package agent

import (
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/kith-id/kith/internal/fault"
)

// refusals says why connections are closed before a word. Whoever makes one sees no
// more than that it was, and tries again: a line every ten seconds is enough to know.
// Whoever makes many can keep others' reasons out of the log, not out of the count.
type refusals struct {
	log   *slog.Logger
	lines *rate.Limiter
	count atomic.Uint64
}

func newRefusals(log *slog.Logger) *refusals {
	return &refusals{log: log, lines: rate.NewLimiter(rate.Every(10*time.Second), 3)}
}

// add counts a connection that was closed for err. It is safe on any goroutine.
func (r *refusals) add(err error) {
	if n := r.count.Add(1); r.lines.Allow() {
		r.log.Warn("caller refused", "error", err, "hint", fault.HintOf(err), "refused", n)
	}
}
