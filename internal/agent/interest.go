package agent

import (
	"maps"
	"slices"
	"sync"

	"github.com/kith-id/kith/internal/pb"
)

// interest is the services whose rules this node must have at once. The server
// sends changes of others when it suits, so an enforcement point gets nothing of
// a service before the server has said that this node is up to date on it and
// stays so.
type interest struct {
	changed func() // something is to be sent; must not block

	mu        sync.Mutex
	wanted    map[string]struct{} // guarded by mu, as is all below
	confirmed map[string]struct{} // of wanted: what the server knows of
	all       bool                // somebody decides here of whom too little is known
	number    uint64              // of the newest interest told or to be told
	unsent    bool
}

// want adds services, and has the server told of new ones.
func (i *interest) want(services []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	grown := false
	for _, name := range services {
		if _, known := i.wanted[name]; !known {
			if i.wanted == nil {
				i.wanted = make(map[string]struct{})
			}
			i.wanted[name] = struct{}{}
			grown = true
		}
	}
	if grown {
		i.renumber()
	}
}

// everything makes this node be concerned by every change, or ends that.
func (i *interest) everything(all bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.all != all {
		i.all = all
		i.renumber()
	}
}

// keep forgets all services but these. What is forgotten has to be confirmed
// anew before it counts again.
func (i *interest) keep(services []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	before := len(i.wanted)
	drop := func(name string, _ struct{}) bool { return !slices.Contains(services, name) }
	maps.DeleteFunc(i.wanted, drop)
	maps.DeleteFunc(i.confirmed, drop)
	if len(i.wanted) != before {
		i.renumber()
	}
}

func (i *interest) renumber() {
	i.number++
	i.unsent = true
	i.changed()
}

// covers says whether this node holds what is in force for all of the services,
// as far as it has heard from the server.
func (i *interest) covers(services []string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, name := range services {
		if _, ok := i.confirmed[name]; !ok {
			return false
		}
	}
	return true
}

// hello is the interest that a new stream begins with.
func (i *interest) hello() *pb.Interest {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.number++
	return i.message()
}

// next is what the server has not been told; nil for nothing.
func (i *interest) next() *pb.Interest {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.unsent {
		return nil
	}
	return i.message()
}

func (i *interest) message() *pb.Interest {
	i.unsent = false
	return &pb.Interest{Number: i.number, Services: slices.Sorted(maps.Keys(i.wanted)), Everything: i.all}
}

// confirm takes the server's word that an interest is met. If it is not of the
// newest, that one's confirmation is on its way.
func (i *interest) confirm(number uint64) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if number != i.number {
		return false
	}
	i.confirmed = maps.Clone(i.wanted)
	return true
}

// saved is the services that are covered, for the cache.
func (i *interest) saved() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Sorted(maps.Keys(i.confirmed))
}

// restore brings back what was covered when the cache was written.
func (i *interest) restore(services []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.wanted, i.confirmed = make(map[string]struct{}), make(map[string]struct{})
	for _, name := range services {
		i.wanted[name], i.confirmed[name] = struct{}{}, struct{}{}
	}
}
