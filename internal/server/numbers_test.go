package server_test

import (
	"math"
	"slices"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// T15: how many, which port, how long, when: numbers around 2^16, 2^31 and 2^63 are
// refused or mean the bound that there is. None wraps around to a small one, and
// no memory is set aside for what was asked.
func TestThreatT15NumbersFromOutsideDoNotWrap(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	a.connect()
	get(a, func() bool {
		a.decisions = slices.Repeat([]*pb.Decision{{Id: "a", Effect: "deny", Reason: "no_source", From: "spiffe://acme.example/vms/web", To: "orders", Method: "GET", Path: "/"}}, 1200)
		return true
	})
	within(t, "the agent to answer", func() bool {
		got, err := r.admin.Why(t.Context(), &pb.WhyRequest{Limit: 2})
		return err == nil && len(got.GetDecisions()) == 2
	})
	for _, n := range []uint32{math.MaxInt32 - 1, math.MaxInt32, 1 << 31, 1<<31 + 1, math.MaxUint32} {
		got, err := r.admin.Why(t.Context(), &pb.WhyRequest{Limit: n})
		if err != nil || len(got.GetDecisions()) != 1000 {
			t.Errorf("the last %d decisions: got %d, %v, want the 1000 that are the bound", n, len(got.GetDecisions()), api.FromWire(err))
		}
		_, err = r.admin.Test(t.Context(), &pb.TestRequest{From: "web", To: "orders", Method: "GET", Path: "/", Port: n})
		if !fault.Is(api.FromWire(err), fault.Invalid) {
			t.Errorf("port %d: got %v, want Invalid", n, err)
		}
	}
	for name, asked := range map[string]*durationpb.Duration{
		"2^31 s": {Seconds: 1 << 31}, "2^63-1 s": {Seconds: math.MaxInt64}, "-2^31 s": {Seconds: math.MinInt32}, "-2^63 s": {Seconds: math.MinInt64},
		"2^32 s and a minute": {Seconds: 1<<32 + 60}, "of wrong signs": {Seconds: 60, Nanos: math.MinInt32}, "2^64 ns and a minute": {Seconds: 18446744073 + 60},
	} {
		_, node := r.admin.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n2", Class: "vms", Ttl: asked})
		_, admin := r.admin.AddAdmin(t.Context(), &pb.AddAdminRequest{Name: "alice", Role: "viewer", Ttl: asked})
		for what, err := range map[string]error{"join line": node, "admin line": admin} {
			if !fault.Is(api.FromWire(err), fault.Invalid) {
				t.Errorf("a %s for %s: got %v, want Invalid", what, name, err)
			}
		}
	}
	for _, at := range []int64{1 << 31, math.MaxInt64, math.MinInt64, -1} {
		if _, err := r.admin.Test(t.Context(), &pb.TestRequest{From: "web", To: "orders", Method: "GET", Path: "/", AtUnixNano: at}); err != nil {
			t.Errorf("at %d ns: %v", at, api.FromWire(err))
		}
	}
}
