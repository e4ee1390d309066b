package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

func TestAckWaitsForAffectedPointsOnly(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	orders := n.attach(&pb.Open{As: "orders", Serves: true})
	first := orders.slice()
	orders.ack(first.GetRevision(), "")
	if len(first.GetServices()) != 1 || len(first.GetRules()) != 1 || first.GetNamed()["web"] == nil || first.GetNode() != "vm-7" {
		t.Errorf("first slice: %v", first)
	}
	// A rule to another service: no point here has to swap.
	r := s.change([]*pb.Object{ruleObject("other", "orders", "web", "GET /")})
	eventually(t, "ack of a change that is nobody's here", func() bool { return s.acked(r) != nil })
	// A rule to orders: the ack waits for the point.
	r = s.change([]*pb.Object{ruleObject("web-writes", "web", "orders", "POST /v1/orders")})
	next := orders.slice()
	if next.GetRevision() != r || len(next.GetRules()) != 2 {
		t.Fatalf("got %v, want revision %d with two rules", next, r)
	}
	if got := s.acked(r); got != nil {
		t.Fatalf("acked %v before the point had swapped", got)
	}
	orders.ack(r, "")
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	if got := s.acked(r); len(got.GetErrors()) != 0 {
		t.Errorf("errors %v, want none", got.GetErrors())
	}
}

func TestPointThatCannotEnforceIsNamed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	orders := n.attach(&pb.Open{As: "orders", Serves: true})
	orders.ack(orders.slice().GetRevision(), "")
	r := s.change([]*pb.Object{ruleObject("web-writes", "web", "orders", "POST /v1/orders")})
	orders.ack(orders.slice().GetRevision(), "unknown action")
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	if got := s.acked(r).GetErrors(); len(got) != 1 || got[0] != "orders (pid 100): unknown action" {
		t.Errorf("errors %q", got)
	}
}

func TestDetachedPointIsWaitedForByNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	orders := n.attach(&pb.Open{As: "orders", Serves: true})
	orders.ack(orders.slice().GetRevision(), "")
	r := s.change([]*pb.Object{ruleObject("web-writes", "web", "orders", "POST /v1/orders")})
	orders.slice()
	orders.close()
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
}

// harness is points without an agent around them.
type harness struct {
	*points
	w    *world
	acks []*pb.Ack
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	s := newServer(t)
	w, err := newWorld(s.state)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{w: w}
	h.points = &points{
		all: make(map[*point]struct{}), limit: time.Hour,
		identify: identifyByName, interest: &interest{changed: func() {}},
		needed: func([]*pb.Provider) {},
		acked:  func(ack *pb.Ack) { h.acks = append(h.acks, ack) },
	}
	h.interest.restore([]string{"orders", "web"})
	h.push(w)
	return h
}

func (h *harness) next(t *testing.T, rule string) {
	t.Helper()
	w, err := h.w.apply(&pb.Delta{Revision: h.w.revision + 1, Put: []*pb.Object{ruleObject(rule, "web", "orders", "GET /"+rule)}})
	if err != nil {
		t.Fatal(err)
	}
	h.w = w
	h.push(w)
}

// A point that hangs is named once its time is up, and holds up neither other
// points nor the acks of later changes.
func TestLaggardIsNamedAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	open := &pb.Open{Serves: true, Schema: policy.Schema}
	slow := h.attach(func() *world { return h.w }, attest.Peer{PID: 1}, registry.Attributes{"workload.kith.as": "orders"}, open)
	good := h.attach(func() *world { return h.w }, attest.Peer{PID: 2}, registry.Attributes{"workload.kith.as": "orders"}, open)
	take := func(p *point) uint64 { return h.outgoing(p, nil).GetSlice().GetRevision() }
	h.ack(slow, &pb.PolicyAck{Revision: take(slow)})
	h.ack(good, &pb.PolicyAck{Revision: take(good)})
	h.next(t, "a")
	h.ack(good, &pb.PolicyAck{Revision: take(good)}) // its slice came though the other hangs
	if n := len(h.acks); n != 1 {
		t.Fatalf("%d acks before the laggard's time was up, want that of the start", n)
	}
	h.expire(2)
	last := h.acks[len(h.acks)-1]
	if last.GetRevision() != 2 || len(last.GetErrors()) != 1 || !strings.Contains(last.GetErrors()[0], "pid 1") {
		t.Fatalf("got %v, want revision 2 with the laggard named", last)
	}
	h.next(t, "b")
	h.ack(good, &pb.PolicyAck{Revision: take(good)})
	if last = h.acks[len(h.acks)-1]; last.GetRevision() != 3 || len(last.GetErrors()) != 1 {
		t.Errorf("got %v, want revision 3 at once, the laggard still named", last)
	}
	h.ack(slow, &pb.PolicyAck{Revision: take(slow)}) // it wakes up, straight to the newest
	h.next(t, "c")
	h.ack(good, &pb.PolicyAck{Revision: take(good)})
	if last = h.acks[len(h.acks)-1]; last.GetRevision() != 3 {
		t.Errorf("got %v, want revision 4 to wait for the point that is back", last)
	}
	h.ack(slow, &pb.PolicyAck{Revision: take(slow)})
	if last = h.acks[len(h.acks)-1]; last.GetRevision() != 4 || len(last.GetErrors()) != 0 {
		t.Errorf("got %v, want revision 4 without errors", last)
	}
}

func TestAcksGoOutInOrder(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	open := &pb.Open{Serves: true, Schema: policy.Schema}
	p := h.attach(func() *world { return h.w }, attest.Peer{PID: 1}, registry.Attributes{"workload.kith.as": "orders"}, open)
	h.ack(p, &pb.PolicyAck{Revision: h.outgoing(p, nil).GetSlice().GetRevision()})
	h.next(t, "a")
	w, err := h.w.apply(&pb.Delta{Revision: 3, Put: []*pb.Object{ruleObject("x", "orders", "web", "GET /")}})
	if err != nil {
		t.Fatal(err)
	}
	h.push(w) // nobody here is affected, yet the server reads an ack as "and all before"
	if n := len(h.acks); n != 1 {
		t.Fatalf("acked revision %d while 2 is not in force", h.acks[n-1].GetRevision())
	}
	h.ack(p, &pb.PolicyAck{Revision: 99}) // of a slice it never got
	if n := len(h.acks); n != 1 {
		t.Fatal("believed an ack of a revision that was never sent")
	}
	h.ack(p, &pb.PolicyAck{Revision: h.outgoing(p, nil).GetSlice().GetRevision()})
	if last := h.acks[len(h.acks)-1]; last.GetRevision() != 3 {
		t.Errorf("got %v, want revision 3", last)
	}
}

// A newer change of the same slice does not make an older one effective: the
// point that hangs has neither.
func TestAckWaitsThoughANewerChangeFollows(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	open := &pb.Open{Serves: true, Schema: policy.Schema}
	p := h.attach(func() *world { return h.w }, attest.Peer{PID: 1}, registry.Attributes{"workload.kith.as": "orders"}, open)
	take := func() uint64 { return h.outgoing(p, nil).GetSlice().GetRevision() }
	h.ack(p, &pb.PolicyAck{Revision: take()})
	want := func(when string, revision uint64) {
		t.Helper()
		if got := h.acks[len(h.acks)-1].GetRevision(); got != revision {
			t.Errorf("%s: acked up to revision %d, want %d", when, got, revision)
		}
	}
	h.next(t, "a")
	first := take()
	h.next(t, "b")
	want("two changes on their way", 1)
	h.ack(p, &pb.PolicyAck{Revision: first})
	want("the first of them in force", first)
	h.next(t, "c")
	second := take()
	h.next(t, "d")
	want("three more on their way", first)
	h.ack(p, &pb.PolicyAck{Revision: second})
	want("two of them in force", second)
	h.ack(p, &pb.PolicyAck{Revision: take()})
	want("all in force", 5)
}

// What this version cannot read goes on to the points, which then fail closed.
func TestUnreadablePolicyIsPassedOnAndReported(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	odd := ruleObject("odd", "web", "orders", "GET /")
	odd.GetRule().ProtoReflect().SetUnknown([]byte{0xfa, 0x07, 0x01, 'x'}) // field 127: of a newer schema
	w, err := h.w.apply(&pb.Delta{Revision: 2, Put: []*pb.Object{odd}})
	if err != nil {
		t.Fatal(err)
	}
	if got := w.faults(); len(got) != 1 || !strings.Contains(got[0], "odd") {
		t.Errorf("faults %q, want the rule named", got)
	}
	slice := w.slice([]string{"orders"})
	if _, err := policy.FromSlice(slice); err == nil {
		t.Error("a point could read the slice and would enforce less than the rule says")
	}
}

// A world reached by deltas is the one that a whole state would give.
func TestDeltasLeadToTheSameWorld(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	odd := ruleObject("odd", "web", "orders", "GET /")
	odd.GetRule().ProtoReflect().SetUnknown([]byte{0xfa, 0x07, 0x01, 'x'})
	w := h.w
	for i, d := range []*pb.Delta{
		{Put: []*pb.Object{serviceObject("cart", "shop"), ruleObject("a", "web", "cart", "GET /a"), odd}},
		{Put: []*pb.Object{ruleObject("a", "web", "cart", "GET /b")}},
		{Delete: []*pb.Key{{Kind: "rule", Name: "odd"}, {Kind: "service", Name: "web"}}},
		{Put: []*pb.Object{serviceObject("web", "other"), ruleObject("odd", "web", "cart", "POST /")}},
		{Delete: []*pb.Key{{Kind: "identity", Name: "users"}}},
	} {
		d.Revision = w.revision + 1
		next, err := w.apply(d)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := newWorld(next.state())
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"cart", "orders", "web"}
		if !sameSlice(next.slice(names), whole.slice(names)) || strings.Join(next.faults(), ",") != strings.Join(whole.faults(), ",") {
			t.Errorf("after delta %d: %v, want %v", i, next.slice(names), whole.slice(names))
		}
		if len(next.byID) != len(whole.byID) || next.rulesOnly != (i == 1) {
			t.Errorf("after delta %d: %d identities, want %d; rules only: %v", i, len(next.byID), len(whole.byID), next.rulesOnly)
		}
		w = next
	}
}

// A delta of several changes leads there from any world between its ends, and
// from no other.
func TestDeltaOfSeveralChanges(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	one, err := h.w.apply(&pb.Delta{Revision: h.w.revision + 1, Put: []*pb.Object{ruleObject("a", "web", "orders", "GET /a")}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := one.apply(&pb.Delta{Revision: one.revision + 1, Put: []*pb.Object{ruleObject("b", "web", "orders", "GET /b")}, Delete: []*pb.Key{{Kind: "rule", Name: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	both := &pb.Delta{From: h.w.revision, Revision: two.revision, Put: []*pb.Object{ruleObject("b", "web", "orders", "GET /b")}, Delete: []*pb.Key{{Kind: "rule", Name: "a"}}}
	for _, w := range []*world{h.w, one} {
		next, err := w.apply(both)
		if err != nil || !sameSlice(next.slice([]string{"orders"}), two.slice([]string{"orders"})) {
			t.Errorf("from revision %d: got %v, %v, want what the single changes lead to", w.revision, next, err)
		}
	}
	if _, err := two.apply(both); !fault.Is(err, fault.Conflict) {
		t.Errorf("to a revision that is there already: got %v, want a conflict", err)
	}
	both.From = h.w.revision + 1
	if _, err := h.w.apply(both); !fault.Is(err, fault.Conflict) {
		t.Errorf("from a later revision: got %v, want a conflict", err)
	}
}

// An older state that the server put back is acked when points have swapped to
// it, whatever higher revision they swapped to before.
func TestPointsSwapBackToAnOlderState(t *testing.T) {
	t.Parallel()
	for _, same := range []bool{false, true} {
		h := newHarness(t)
		older := h.w
		p := h.attach(func() *world { return h.w }, attest.Peer{PID: 1}, registry.Attributes{"workload.kith.as": "orders"},
			&pb.Open{Serves: true, Schema: policy.Schema})
		take := func() *pb.Slice { return h.outgoing(p, nil).GetSlice() }
		h.ack(p, &pb.PolicyAck{Revision: take().GetRevision()})
		h.next(t, "undone")
		h.ack(p, &pb.PolicyAck{Revision: take().GetRevision()})
		back := *older
		back.mark, back.touched = 7, nil
		if same { // the number that was acked
			back.revision = h.w.revision
		}
		before := len(h.acks)
		h.w = &back
		h.push(h.w)
		if n := len(h.acks); n != before {
			t.Fatalf("acked %v before the point had swapped back", h.acks[before:])
		}
		next := take()
		if next.GetRevision() != back.revision || len(next.GetRules()) != 1 {
			t.Fatalf("the point gets %v, want one rule at revision %d", next, back.revision)
		}
		h.ack(p, &pb.PolicyAck{Revision: next.GetRevision()})
		if n := len(h.acks); n != before+1 || h.acks[n-1].GetRevision() != back.revision || h.acks[n-1].GetMark() != 7 {
			t.Errorf("acks %v, want one of revision %d and mark 7", h.acks[before:], back.revision)
		}
	}
}
