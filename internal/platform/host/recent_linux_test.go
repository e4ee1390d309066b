package host

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
)

// What was read a moment ago counts for the same process alone, running the same
// program; and the process is looked at each time.
func TestFactsOfAMomentAgoAreOfTheSameProcess(t *testing.T) {
	c, other := connect(t, "connect"), connect(t, "connect")
	now := time.Now()
	h := New(func() time.Time { return now })
	none := func(string) bool { return false }
	forge := func(peer attest.Peer, path string) {
		h.recent.put(sightingOf(peer, none), now, registry.Attributes{attrPath: path})
	}
	path := func(peer attest.Peer) string {
		attrs, err := h.InspectFor(context.Background(), peer, none)
		if err != nil {
			t.Fatal(err)
		}
		return attrs[attrPath]
	}
	self, _ := os.Executable()
	forge(c.peer, "/remembered")
	if got := path(c.peer); got != "/remembered" {
		t.Errorf("the same process: path %q was read again", got)
	}
	if got := path(other.peer); got != self {
		t.Errorf("another process: path %q, want %q", got, self)
	}
	changed := c.peer
	changed.Exe.Inode++
	if sightingOf(changed, none) == sightingOf(c.peer, none) {
		t.Error("a process that became another program is the same sighting")
	}
	now = now.Add(freshFor)
	if got := path(c.peer); got != self {
		t.Errorf("after %s: path %q, want %q", freshFor, got, self)
	}
	forge(c.peer, "/remembered")
	c.end()
	_, err := h.InspectFor(context.Background(), c.peer, none)
	wantDenied(t, err, "what is remembered of an ended process")
}
