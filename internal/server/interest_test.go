package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/pb"
)

// hosting is a connected agent with enforcement points of these services.
func (r *rig) hosting(name string, services ...string) *agent {
	r.t.Helper()
	a := r.joined(name)
	a.interest = &pb.Interest{Number: 1, Services: services}
	a.connect()
	within(r.t, "the interest of "+name, func() bool { return get(a, func() bool { return a.current == 1 }) })
	return a
}

// wants replaces what an agent must have at once.
func (a *agent) wants(number uint64, services ...string) {
	a.t.Helper()
	in := &pb.Interest{Number: number, Services: services}
	if err := a.send(&pb.SyncRequest{Message: &pb.SyncRequest_Interest{Interest: in}}); err != nil {
		a.t.Fatal(err)
	}
}

func (r *rig) revisionOf(node string) uint64 {
	r.t.Helper()
	nodes, err := r.s.ListNodes(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range nodes {
		if n.GetName() == node {
			return n.GetRevision()
		}
	}
	return 0
}

func TestChangeOfARuleGoesToThoseItConcerns(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a, b := r.hosting("a", "orders"), r.hosting("b", "web")
	c := r.joined("c") // says nothing, so everything concerns it
	c.connect()
	for _, agent := range []*agent{a, b, c} {
		agent.at(2)
	}
	got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /")}})
	if got.GetAffected() != 2 || got.GetAcked() != 2 {
		t.Errorf("a rule to orders: got %v, want a and c", got)
	}
	if n := get(b, func() int { return b.deltas }); n != 0 {
		t.Errorf("b was sent %d changes at once, want none", n)
	}
	if n := r.revisionOf("b"); n != 3 {
		t.Errorf("b is shown at revision %d, want 3: nothing that concerns it is missing", n)
	}
	if got = r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("cart", "/vms/cart")}}); got.GetAcked() != 3 {
		t.Errorf("a service: got %v, want everybody", got)
	}
	if b.at(4); b.fault != nil || b.states != 1 || b.deltas != 1 || b.objects["rule r"] == nil {
		t.Errorf("b got %d states and %d deltas, %v; want 1, and both changes in one", b.states, b.deltas, b.fault)
	}
	for _, to := range []string{"any", "/vms/**"} {
		if got = r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", to, "GET /")}}); got.GetAcked() != 3 {
			t.Errorf("a rule moved from orders to %s: got %v, want everybody", to, got)
		}
	}
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /")}})
	if got = r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "orders", "web", "GET /")}}); got.GetAcked() != 3 {
		t.Errorf("a rule moved from orders to web: got %v, want both sides", got)
	}
	if got = r.apply(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "rule", Name: "r"}}}); got.GetAcked() != 2 {
		t.Errorf("a rule to web that goes: got %v, want b and c", got)
	}
}

// A point of a service that is new on a node must not be told "current" before
// the node has what was changed while the service was of no interest to it.
func TestInterestIsMetBeforeItIsConfirmed(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	b := r.hosting("b", "web")
	b.at(2)
	for i := range 3 {
		if got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", fmt.Sprintf("GET /%d", i))}}); got.GetAffected() != 0 {
			t.Fatalf("got %v, want nobody", got)
		}
	}
	b.wants(2, "web", "orders")
	within(t, "the confirmation", func() bool { return get(b, func() bool { return b.current == 2 }) })
	if n := get(b, func() uint64 { return b.revision }); n != 5 {
		t.Errorf("confirmed at revision %d, want 5", n)
	}
	if got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /x")}}); got.GetAcked() != 1 {
		t.Errorf("after the confirmation: got %v, want b", got)
	}
	b.wants(3, "web")
	within(t, "the confirmation", func() bool { return get(b, func() bool { return b.current == 3 }) })
	if got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /y")}}); got.GetAffected() != 0 {
		t.Errorf("after the interest has ended: got %v, want nobody", got)
	}
}

// What concerns a node not at all reaches it in the end, without a gap and
// without falling out of the ring.
func TestAgentThatNothingConcernsCatchesUp(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	b := r.hosting("b", "web")
	b.at(2)
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /")}})
	r.clock.add(time.Minute)
	b.at(3)
	for i := range 300 {
		r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", fmt.Sprintf("GET /%d", i))}})
	}
	within(t, "all but the last revisions", func() bool { return get(b, func() bool { return b.revision > 303-256 }) })
	if b.fault != nil || get(b, func() int { return b.states }) != 1 {
		t.Errorf("got %d states and %v, want deltas alone", b.states, b.fault)
	}
}

func TestNodeThatIsAwayIsWaitedForOnlyIfItIsConcerned(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a, b := r.hosting("a", "orders"), r.hosting("b", "web")
	a.disconnect()
	b.disconnect()
	within(t, "the server to notice", func() bool { return r.status().GetNodesConnected() == 0 })
	got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "orders", "web", "GET /")}})
	if len(got.GetLaggards()) != 1 || got.GetLaggards()[0] != "b" {
		t.Errorf("got %v, want b alone named", got)
	}
}
