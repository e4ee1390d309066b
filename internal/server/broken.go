package server

import (
	"context"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/run"
)

// brokenEvery is how often the audit log is asked whether it still works.
const brokenEvery = time.Second

// watchAudit ends the server when the audit log cannot go on, as a failed sync
// makes it: whoever starts the server again opens the log again, and reads what
// is on disk. Staying would mean to refuse every change until somebody looks.
func (s *Server) watchAudit(ctx context.Context) error {
	log, ok := s.cfg.Audit.(interface{ Broken() error })
	if !ok {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTimer(run.Beat(brokenEvery))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		tick.Reset(run.Beat(brokenEvery))
		if err := log.Broken(); err != nil {
			return fault.Hint(err, "look at the disk; the server can be started again at once")
		}
	}
}
