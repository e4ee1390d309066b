package agent

import (
	"strings"

	"github.com/kith-id/kith/internal/pb"
)

// slicing remembers the slices that were cut from one world, so that a change of
// one service costs what that service has, and points of one service share theirs.
type slicing struct {
	from *world
	all  map[string]*pieces // by names
}

type pieces struct {
	names []string
	slice *pb.Slice
	used  bool // since the last move
}

// move goes on to the next world, and keeps what is the same there.
func (s *slicing) move(w *world) {
	follows := s.from != nil && w.touched != nil && w.epoch == s.from.epoch && w.revision == s.from.revision+1
	s.from = w
	for key, c := range s.all {
		stays := follows && c.used
		c.used = false
		for _, name := range c.names {
			stays = stays && !w.touched[name]
		}
		if !stays {
			delete(s.all, key)
		}
	}
}

// of is the slice of the named services, at revision 0. Of another world than
// the one moved to it is not remembered.
func (s *slicing) of(w *world, names []string) *pb.Slice {
	if w != s.from {
		return w.slice(names)
	}
	key := strings.Join(names, "\x00")
	if c, ok := s.all[key]; ok {
		c.used = true
		return c.slice
	}
	if s.all == nil {
		s.all = make(map[string]*pieces)
	}
	slice := w.slice(names)
	s.all[key] = &pieces{names, slice, true}
	return slice
}
