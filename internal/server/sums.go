package server

import (
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// message is a change as it is sent to everybody.
type message struct {
	scope names  // services whose enforcement points it concerns
	base  uint64 // mark of the revision before
	delta *pb.Delta
	frame *api.Frame
}

// newMessage marshals a change once for all agents.
func newMessage(delta *pb.Delta, scope names) (*message, error) {
	encoded, err := proto.Marshal(delta)
	if err != nil {
		return nil, fmt.Errorf("marshal delta: %w", err)
	}
	frame, err := api.NewFrame(&pb.SyncResponse{Message: &pb.SyncResponse_Delta{Delta: &pb.EncodedDelta{Delta: encoded}}})
	return &message{scope: scope, delta: delta, frame: frame}, err
}

// sumBytes is up to which size changes are sent as one. Larger ones go one by
// one: to work them out anew for each agent would cost more than it saves.
const sumBytes = 256 << 10

// sums are the deltas that lead to the newest revision from several ones, for
// agents that lack more than one: as often as not many lack the same. hub.mu is
// held.
type sums struct {
	to     uint64
	frames map[uint64]*api.Frame // by the revision they begin at
}

// of is what leads an agent past all of the changes.
func (s *sums) of(changes []*message) ([]*api.Frame, error) {
	if len(changes) == 0 {
		return nil, nil
	}
	first, last := changes[0], changes[len(changes)-1]
	size, frames := 0, make([]*api.Frame, 0, len(changes))
	for _, m := range changes {
		size += m.frame.Len()
		frames = append(frames, m.frame)
	}
	if len(changes) == 1 || size > sumBytes {
		return frames, nil
	}
	if to := last.delta.GetRevision(); s.to != to {
		s.to, s.frames = to, make(map[uint64]*api.Frame)
	}
	from := first.delta.GetRevision() - 1
	if s.frames[from] == nil {
		one, err := newMessage(sum(from, changes), nil)
		if err != nil {
			return nil, err
		}
		s.frames[from] = one.frame
	}
	return []*api.Frame{s.frames[from]}, nil
}

// sum is how everything stands that the changes touch, after the last of them.
func sum(from uint64, changes []*message) *pb.Delta {
	out := &pb.Delta{From: from}
	put, gone := make(map[objectKey]*pb.Object), make(map[objectKey]*pb.Key)
	for _, m := range changes {
		for _, object := range m.delta.GetPut() {
			key, _, _ := keyOf(object) // of a kind that is known, or it were not in a snapshot
			put[key] = object
			delete(gone, key)
		}
		for _, key := range m.delta.GetDelete() {
			name := objectKey{registry.Kind(key.GetKind()), key.GetName()}
			gone[name] = key
			delete(put, name)
		}
		if bundles := m.delta.GetBundles(); len(bundles) > 0 {
			out.Bundles = bundles
		}
		out.Revision, out.Mark = m.delta.GetRevision(), m.delta.GetMark()
	}
	out.Put = slices.Collect(maps.Values(put))
	out.Delete = slices.Collect(maps.Values(gone))
	return out
}
