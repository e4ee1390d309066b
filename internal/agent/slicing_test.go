package agent

import (
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// Whatever changes, in whatever order, a slice that was kept is the one that
// would be cut anew.
func TestKeptSlicesAreThoseCutAnew(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	first, err := newWorld(s.state)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	rapid.Check(t, func(t *rapid.T) {
		w, cut := first, slicing{}
		service := func(label string) string {
			return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, label)
		}
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			d := &pb.Delta{Revision: w.revision + 1}
			rule := &pb.Rule{
				Name: "r" + strconv.Itoa(rapid.IntRange(0, 5).Draw(t, "rule")), From: []string{"any"}, To: service("to"),
				Allow: []string{"GET /" + rapid.SampledFrom([]string{"x", "y"}).Draw(t, "path")},
			}
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				o := serviceObject(service("service"), "/vms/"+service("id"))
				d.Put = append(d.Put, o)
			case 1:
				d.Delete = append(d.Delete, &pb.Key{Kind: string(registry.KindService), Name: service("gone")})
			case 2:
				d.Delete = append(d.Delete, &pb.Key{Kind: string(registry.KindRule), Name: rule.Name})
			case 3:
				rule.To, rule.Allow = "any", []string{"* /{**}", "tcp"}
				d.Put = append(d.Put, &pb.Object{Kind: &pb.Object_Rule{Rule: rule}})
			case 4:
				rule.Mode = "of a newer kith"
				d.Put = append(d.Put, &pb.Object{Kind: &pb.Object_Rule{Rule: rule}})
			default:
				d.Put = append(d.Put, &pb.Object{Kind: &pb.Object_Rule{Rule: rule}})
			}
			if w, err = w.apply(d); err != nil {
				t.Fatal(err)
			}
			cut.move(w)
			kept += len(cut.all)
			for _, names := range [][]string{nil, {"a"}, {"b"}, {"a", "c"}} {
				if got, want := cut.of(w, names), w.slice(names); !proto.Equal(got, want) {
					t.Fatalf("revision %d, slice of %v: got %v, want %v", w.revision, names, got, want)
				}
			}
		}
	})
	if kept == 0 {
		t.Error("nothing was ever kept")
	}
}
