package server

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/pb"
)

// A backup that is put back counts the revisions after it anew, in the epoch of
// before. So that an agent's revision 20 is not taken for another one of that
// number, each revision has a mark: a random number, made and stored with it.

// revisionValue is a revision as the store keeps it, with a new mark.
func revisionValue(revision uint64) []byte {
	return fmt.Appendf(nil, "%d %016x", revision, rand.Uint64()|1) // none is 0, which is no mark
}

// parseRevision reads a revision and its mark; stores older than marks have none.
func parseRevision(value []byte) (revision, mark uint64, err error) {
	number, marked, found := strings.Cut(string(value), " ")
	revision, err = strconv.ParseUint(number, 10, 64)
	if err == nil && found {
		mark, err = strconv.ParseUint(marked, 16, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("revision of the store: %w", err)
	}
	return revision, mark, nil
}

// markOf is the mark of a revision that deltas lead on from; false for others.
// hub.mu is held.
func (h *hub) markOf(revision uint64) (uint64, bool) {
	deltas, ok := h.since(revision)
	if !ok {
		return 0, false
	}
	if len(deltas) == 0 {
		return h.snap.mark, true
	}
	return deltas[0].base, true
}

// strange says whether an agent comes with a revision that this server never
// had, though the epoch is the same: one of them was put back. hub.mu is held.
func (h *hub) strange(hello *pb.SyncHello) bool {
	if hello.GetRevision() == 0 || hello.GetEpoch() != h.snap.epoch {
		return false
	}
	mark, known := h.markOf(hello.GetRevision())
	return hello.GetRevision() > h.snap.revision || known && mark != hello.GetMark()
}

// otherHistory is what a node held that this server never had.
type otherHistory struct {
	node           string
	held, revision uint64 // its revision, and ours when it came
}

// String says it in a sentence of kith status.
func (o otherHistory) String() string {
	return fmt.Sprintf("an older state was put back: node %s held revision %d of changes that this server, then at %d, does not know; "+
		"what was changed in between is undone, bans and removed admins too: make it again, then restart the server", o.node, o.held, o.revision)
}

// note notes that an agent came with another history.
// hub.mu is held.
func (h *hub) note(o otherHistory) {
	if h.other == nil || o.held > h.other.held {
		h.other = &o
	}
}

// otherAlarm is what note noted, nil for nothing.
func (h *hub) otherAlarm() *otherHistory {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.other
}
