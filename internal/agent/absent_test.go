package agent

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

// A proxy goes on by the old policy while its agent is away. An agent that acked
// a change before the proxy is back would say that it is in force.
func TestRestartedAgentAcksWhenItsPointsHaveSwapped(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	before := n.attach(&pb.Open{As: "orders", Serves: true})
	before.ack(before.slice().GetRevision(), "")
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	r := s.change([]*pb.Object{ruleObject("web-writes", "web", "orders", "POST /v1/orders")})
	n.start()
	eventually(t, "the change at the agent", func() bool { return n.agent.world.Load().revision == r })
	again := n.attach(&pb.Open{As: "orders", Serves: true})
	slice := again.slice()
	if got := s.acked(r); got != nil {
		t.Fatalf("acked %v before the point had swapped", got)
	}
	again.ack(slice.GetRevision(), "")
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	if got := s.acked(r).GetErrors(); len(got) != 0 {
		t.Errorf("errors %q, want none", got)
	}
}

func TestRestartedAgentWaitsForNoDeadProcess(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	p.ack(p.slice().GetRevision(), "")
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	r := s.change([]*pb.Object{ruleObject("web-writes", "web", "orders", "POST /v1/orders")})
	n.start()
	eventually(t, "the change at the agent", func() bool { return n.agent.world.Load().revision == r })
	if got := s.acked(r); got != nil {
		t.Fatalf("acked %v while the process of before was running", got)
	}
	n.people.mu.Lock()
	n.people.gone[100] = true
	n.people.mu.Unlock()
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	if got := s.acked(r).GetErrors(); len(got) != 0 {
		t.Errorf("errors %q, want none", got)
	}
}

func TestPointThatDoesNotComeBackIsNamed(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.acks = nil
	frozen := attest.Process{PID: 7, Started: 1}
	h.expect(frozen, 2)
	h.next(t, "a")
	if len(h.acks) != 0 {
		t.Fatalf("acked %v while two points were absent", h.acks)
	}
	open := &pb.Open{Serves: true, Schema: policy.Schema}
	attach := func() *point {
		return h.attach(func() *world { return h.w }, attest.Peer{PID: 7, Started: 1}, registry.Attributes{"workload.kith.as": "orders"}, open)
	}
	take := func(p *point) *pb.PolicyAck {
		return &pb.PolicyAck{Revision: h.outgoing(p, nil).GetSlice().GetRevision()}
	}
	one := attach()
	h.ack(one, take(one))
	if len(h.acks) != 0 {
		t.Fatalf("acked %v while one point was absent", h.acks)
	}
	h.expire(h.w.revision)
	if len(h.acks) != 1 || !strings.Contains(strings.Join(h.acks[0].GetErrors(), ""), "pid 7") {
		t.Fatalf("when its time is up: %v, want an ack that names the process", h.acks)
	}
	two := attach()
	h.ack(two, take(two))
	h.next(t, "b")
	h.ack(one, take(one))
	h.ack(two, take(two))
	if last := h.acks[len(h.acks)-1]; last.GetRevision() != h.w.revision || len(last.GetErrors()) != 0 {
		t.Errorf("with both back: %v, want revision %d without errors", last, h.w.revision)
	}
}
