package host

import (
	"sync"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
)

const (
	// freshFor is how long the unit, path, names and groups of a process are taken
	// for what they were. Who it is and what it runs is asked each time.
	freshFor = time.Second
	// maxRecent bounds the processes that are remembered.
	maxRecent = 256
)

// sighting is one process, running one program under one user, and what was to
// be measured of it.
type sighting struct {
	process          attest.Process
	exe              attest.Program
	uid, gid         uint32
	pid, sum, groups bool
}

func sightingOf(peer attest.Peer, want func(string) bool) sighting {
	return sighting{
		process: peer.Process(), exe: peer.Exe, uid: peer.UID, gid: peer.GID,
		pid: want(attrPID), sum: want(attrSHA256), groups: want(attrGroups),
	}
}

// recent remembers what was measured a moment ago. A program that asks for a
// token with each request would have the agent read /proc for each.
type recent struct {
	now func() time.Time

	mu  sync.Mutex
	all map[sighting]measured // guarded by mu
}

type measured struct {
	at    time.Time
	attrs registry.Attributes
}

func (r *recent) get(s sighting) (registry.Attributes, bool) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.all[s]
	age := now.Sub(m.at)
	return m.attrs, ok && age >= 0 && age < freshFor
}

func (r *recent) put(s sighting, at time.Time, attrs registry.Attributes) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) >= maxRecent {
		clear(r.all)
	}
	r.all[s] = measured{at, attrs}
}
