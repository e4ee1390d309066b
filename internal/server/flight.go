package server

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

// claim reserves a stream for the newest delta, when that is all it lacks and
// nobody writes to it: this saves waking a goroutine for each agent. The caller
// holds hub.mu and, if it was told true, the sending lock from now on.
func (h *hub) claim(l *link, size int) bool {
	if l.cut != nil || l.fresh || l.sent+1 != h.snap.revision || l.dirSent != h.dirRev || len(l.outbox) > 0 ||
		!l.flight.room(size) || !l.sending.TryLock() {
		return false
	}
	l.sent = h.snap.revision
	l.flight.change(size)
	return true
}

// finish gives a claimed stream back.
func (h *hub) finish(l *link, err error) {
	l.sending.Unlock()
	if err != nil {
		h.end(l, err)
		return
	}
}
