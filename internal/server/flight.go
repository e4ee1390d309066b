package server

import (
	"time"

	"github.com/kith-id/kith/internal/api"
)

// directBytes is how much may be on its way to an agent when a change is written
// to its stream by whoever publishes it: half of what gRPC takes before it makes
// a sender wait, so that a slow agent never holds up the others.
const directBytes = 32 << 10

// unknownSize stands for a message that is too large to be written so.
const unknownSize = directBytes

// flight is how many bytes an agent may not have read yet. An ack says that it
// has read all that was sent before the change that it acks.
type flight struct {
	until int // up to the newest change
	after int // since then
}

func (f *flight) change(size int) { f.until, f.after = f.until+f.after+size, 0 }

func (f *flight) other(size int) { f.after += size }

// landed notes the ack of the newest change.
func (f *flight) landed() { f.until = 0 }

func (f *flight) room(size int) bool { return f.until+f.after+size <= directBytes }

// claim is a stream that is reserved for whoever publishes a change, and what is
// to be written to it. Its sending lock is held until it has been sent.
type claim struct {
	to     *link
	frames []*api.Frame
}

// claim reserves a stream if deltas are all it lacks and nobody writes to it:
// this saves waking a goroutine for each agent. hub.mu is held.
func (h *hub) claim(l *link) (claim, bool) {
	deltas, ok := h.since(l.sent)
	if !ok || l.cut != nil || l.fresh || l.dirSent != h.dirRev || len(l.outbox) > 0 || l.confirm != 0 {
		return claim{}, false
	}
	frames, err := h.summed.of(deltas)
	if err != nil {
		return claim{}, false // the stream's own goroutine meets it again, and ends with it
	}
	size := 0
	for _, f := range frames {
		size += f.Len()
	}
	if !l.flight.room(size) || !l.sending.TryLock() {
		return claim{}, false
	}
	l.flight.change(size)
	l.caughtUp(h.snap.revision)
	return claim{l, frames}, true
}

// send writes what was claimed and gives the stream back.
func (c claim) send(h *hub) {
	var err error
	for _, frame := range c.frames {
		if err = c.to.to.SendFrame(frame); err != nil {
			break
		}
	}
	c.to.sending.Unlock()
	if err != nil {
		h.end(c.to, err)
	}
}

// caughtUp notes that the stream is handed everything up to a revision.
func (l *link) caughtUp(revision uint64) {
	l.sent, l.fresh, l.rush, l.behind = revision, false, false, time.Time{}
}
