package server

import (
	"fmt"
	"maps"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/pb"
)

// held is what an agent holds that applies deltas.
type held map[string]string

func (h held) apply(d *pb.Delta) {
	for _, key := range d.GetDelete() {
		delete(h, key.GetName())
	}
	for _, o := range d.GetPut() {
		h[o.GetRule().GetName()] = o.GetRule().GetTo()
	}
}

// What several changes come to, sent as one, leads where they lead one by one,
// from wherever an agent stands between them.
func TestSumOfChangesLeadsWhereTheyDo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var ring []*message
		stages := []held{{}}
		for revision := range uint64(rapid.IntRange(2, 12).Draw(t, "changes")) {
			delta := &pb.Delta{Revision: revision + 1}
			for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d"}), rapid.ID[string]).Draw(t, "names") {
				if rapid.Bool().Draw(t, "delete") {
					delta.Delete = append(delta.Delete, &pb.Key{Kind: "rule", Name: name})
					continue
				}
				delta.Put = append(delta.Put, &pb.Object{Kind: &pb.Object_Rule{Rule: &pb.Rule{Name: name, To: fmt.Sprint(revision)}}})
			}
			m, err := newMessage(delta, nil)
			if err != nil {
				t.Fatal(err)
			}
			next := maps.Clone(stages[revision])
			next.apply(delta)
			ring, stages = append(ring, m), append(stages, next)
		}
		from := rapid.IntRange(0, len(ring)-2).Draw(t, "from")
		whole := sum(uint64(from), ring[from:])
		for at := from; at < len(ring); at++ {
			got := maps.Clone(stages[at])
			if got.apply(whole); !maps.Equal(got, stages[len(ring)]) {
				t.Fatalf("from %d, applied at %d: got %v, want %v", from, at, got, stages[len(ring)])
			}
		}
		if whole.GetRevision() != uint64(len(ring)) || whole.GetFrom() != uint64(from) {
			t.Fatalf("leads from %d to %d, want %d to %d", whole.GetFrom(), whole.GetRevision(), from, len(ring))
		}
	})
}

// Whoever lacks the same is sent the same, encoded once; too much is sent as it
// is.
func TestSumsAreSharedAndBounded(t *testing.T) {
	t.Parallel()
	var ring []*message
	for revision := range uint64(4) {
		m, err := newMessage(&pb.Delta{Revision: revision + 1, Put: []*pb.Object{{Kind: &pb.Object_Rule{Rule: &pb.Rule{
			Name: "r", To: fmt.Sprint(revision), When: string(make([]byte, revision*sumBytes/4)),
		}}}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		ring = append(ring, m)
	}
	var s sums
	first, err := s.of(ring[:2])
	if err != nil || len(first) != 1 {
		t.Fatalf("got %d frames, %v, want one", len(first), err)
	}
	if again, err := s.of(ring[:2]); err != nil || again[0] != first[0] {
		t.Errorf("the same changes again: got %v, %v, want the same frame", again, err)
	}
	if next, err := s.of(ring[:3]); err != nil || len(next) != 1 || next[0] == first[0] {
		t.Errorf("a change more: got %v, %v, want another frame", next, err)
	}
	if all, err := s.of(ring); err != nil || len(all) != len(ring) {
		t.Errorf("too much: got %d frames, %v, want each change by itself", len(all), err)
	}
	if single, err := s.of(ring[3:]); err != nil || len(single) != 1 || single[0] != ring[3].frame {
		t.Errorf("one change: got %v, %v, want it as it is", single, err)
	}
	if raw, err := proto.Marshal(ring[3].delta); err != nil || ring[3].frame.Len() < len(raw) {
		t.Errorf("a frame of %d bytes for a delta of %d, %v", ring[3].frame.Len(), len(raw), err)
	}
}
