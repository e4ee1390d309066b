package agent

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fork"
	"github.com/kith-id/kith/internal/pb"
)

// The cache holds the world of now, after whatever changes: what is copied from the
// encoding before is what encoding it again would give.
func TestEncoderFollowsChanges(t *testing.T) {
	rule := func(i, version int) *pb.Object {
		return &pb.Object{Kind: &pb.Object_Rule{Rule: &pb.Rule{Name: fmt.Sprintf("rule-%d", i), To: "orders", Allow: []string{fmt.Sprintf("GET /v%d", version)}}}}
	}
	w := &world{revision: 1, node: "vm-7", objects: new(fork.Map[objectKey, *pb.Object])}
	var e encoder
	for step := range 40 {
		next := *w
		next.revision, next.objects = w.revision+1, w.objects.Fork()
		for i := range 7 {
			o := rule((step*5+i)%50, step)
			if next.objects.Put(keyOf(o), o); i == 3 {
				next.objects.Delete(keyOf(o))
			}
		}
		w = &next
		data, err := e.state(w)
		if err != nil {
			t.Fatal(err)
		}
		got, want := &pb.State{}, w.state()
		if err := proto.Unmarshal(data, got); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*pb.State{got, want} {
			slices.SortFunc(s.Objects, func(a, b *pb.Object) int { return cmp.Compare(a.GetRule().GetName(), b.GetRule().GetName()) })
		}
		if !proto.Equal(got, want) {
			t.Fatalf("step %d: got %v, want %v", step, got, want)
		}
	}
}

// state is the world as a message, made at once.
func (w *world) state() *pb.State {
	out := w.head()
	for _, o := range w.objects.All() {
		out.Objects = append(out.Objects, o)
	}
	return out
}
