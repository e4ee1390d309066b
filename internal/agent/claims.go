package agent

import (
	"slices"
	"sync"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// The attributes that are treated apart: the claimed name, and those that cost
// so much that they are measured only where something depends on them.
const (
	attrClaim  = "workload.kith.as"
	attrGroups = "workload.unix.groups"
	attrSHA256 = "workload.unix.sha256"
	attrPID    = "workload.unix.pid"
)

// claims remembers which process claims which service name. A claim holds while
// its stream is open and its process lives, and for the process's descendants.
type claims struct {
	processes attest.Processes

	mu  sync.Mutex
	all map[attest.Process]*claim // guarded by mu
}

type claim struct {
	name    string
	claimer attest.Peer
	streams int
}

func newClaims(processes attest.Processes) *claims {
	return &claims{processes: processes, all: make(map[attest.Process]*claim)}
}

// add records a claim; the returned function ends it. One process claims one
// name at a time: with two, nobody could say which of them a call meant.
func (c *claims) add(peer attest.Peer, name string) (func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	who := peer.Process()
	held, ok := c.all[who]
	switch {
	case !ok:
		held = &claim{name: name, claimer: peer}
		c.all[who] = held
	case held.name != name:
		return nil, fault.Conflictf("process %d claims %s already", peer.PID, held.name)
	default:
		held.claimer = peer // the newer connection holds the process
	}
	held.streams++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if held.streams--; held.streams == 0 {
			delete(c.all, who)
		}
	}, nil
}

// of is the name claimed for a process, by itself or by its nearest ancestor
// that claims one, and the process that claims it.
func (c *claims) of(peer attest.Peer) (name string, claimer attest.Peer, ok bool) {
	c.mu.Lock()
	none := len(c.all) == 0
	c.mu.Unlock()
	if none {
		return "", attest.Peer{}, false
	}
	line, err := c.processes.Lineage(peer)
	if err != nil {
		return "", attest.Peer{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, process := range line {
		if held, ok := c.all[process]; ok {
			return held.name, held.claimer, true
		}
	}
	return "", attest.Peer{}, false
}

// mayClaim reports whether a process with these attributes may use a service's
// name: its run_as says so, or the agent runs kith dev for this very user.
func (a *Agent) mayClaim(w *world, name string, uid uint32, attrs registry.Attributes) bool {
	service, ok := w.policy.Service(name)
	if !ok {
		return false
	}
	if w.dev && (uid == a.uid || uid == 0) {
		return true
	}
	return service.MayClaim(attrs["workload.unix.user"], int(uid), groupsOf(attrs))
}

// lent is what is left of the identities of a process that claims a service's name,
// without those that the service does not lend. The server looks again.
func (w *world) lent(claimed string, matches []registry.Match) []registry.Match {
	service, ok := w.policy.Service(claimed)
	if !ok {
		return matches
	}
	return slices.DeleteFunc(matches, func(m registry.Match) bool { return m.Claimed && !service.Lends(m.ID, w.domain) })
}
