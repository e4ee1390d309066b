package agent

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// A point of a service that is new here gets nothing of it before the server has
// said that this node has all there is: what it was not concerned by may be late.
func TestPointOfANewServiceWaitsUntilTheNodeIsCurrent(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.silent = true
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true, Calls: true})
	if m, err := p.stream.Recv(); err != nil || m.GetDirectory() == nil {
		t.Fatalf("first message: got %v %v, want the directory: the slice has to wait", m, err)
	}
	var asked *pb.Interest
	eventually(t, "the interest", func() bool {
		s.locked(func() {
			if len(s.interests) > 0 {
				asked = s.interests[len(s.interests)-1]
			}
		})
		return len(asked.GetServices()) == 1
	})
	if asked.GetServices()[0] != "orders" {
		t.Errorf("asked for %v, want orders", asked)
	}
	s.change([]*pb.Object{ruleObject("web-reads", "web", "orders", "GET /v2")})
	old := proto.CloneOf(asked)
	old.Number--
	s.locked(func() {
		s.push(current(old)) // of another interest: it says nothing of this one
		s.push(current(asked))
	})
	if got := p.slice(); got.GetRevision() != 2 || got.GetRules()[0].GetAllow()[0] != "GET /v2" {
		t.Errorf("first slice: got %v, want that of revision 2", got)
	}
}

// While the server is away a point of a service that was never here stays closed;
// it could have no SVID either.
func TestServiceThatIsNewHereWaitsForTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	p.slice()
	eventually(t, "the cache to know of orders", func() bool { return len(n.agent.interest.saved()) == 1 })
	s.down()
	n.people.be(101, 1000)
	fresh := n.attach(&pb.Open{As: "web", Serves: true, Calls: true})
	if m, err := fresh.stream.Recv(); err != nil || m.GetDirectory() == nil {
		t.Fatalf("first message: got %v %v, want the directory alone", m, err)
	}
	n.people.be(102, 1000)
	known := n.attach(&pb.Open{As: "orders", Serves: true})
	if got := known.slice(); len(got.GetRules()) != 1 {
		t.Errorf("a service that is hosted here: got %v, want its slice though the server is away", got)
	}
	s.listen()
	if got := fresh.slice(); len(got.GetServices()) != 1 {
		t.Errorf("once the server is back: got %v, want the slice of web", got)
	}
}

func TestInterestEndsWithTheLastUse(t *testing.T) {
	t.Parallel()
	told := 0
	i := &interest{changed: func() { told++ }}
	i.want([]string{"a", "b"})
	i.want([]string{"b"})
	if told != 1 {
		t.Errorf("told the server of %d changes, want 1", told)
	}
	asked := i.next()
	if i.covers([]string{"a"}) || !i.confirm(asked.GetNumber()) || !i.covers([]string{"a", "b"}) {
		t.Error("covered before it is confirmed, or not after")
	}
	i.keep([]string{"b", "c"})
	if asked = i.next(); len(asked.GetServices()) != 1 || i.covers([]string{"a"}) || !i.covers([]string{"b"}) {
		t.Errorf("asked for %v, want b alone, and that no gap in it", asked)
	}
	i.want([]string{"a"})
	if i.confirm(asked.GetNumber()); i.covers([]string{"a"}) {
		t.Error("the confirmation of an interest counts for a later one")
	}
	if again := i.hello(); again.GetNumber() <= asked.GetNumber() || len(again.GetServices()) != 2 {
		t.Errorf("a new stream begins with %v, want both under a new number", again)
	}
}

// What an agent that has just started knows of the points that went on without
// it may be old, so every change concerns it until they are back.
func TestEverythingConcernsANodeWhosePointsAreNotBack(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	n.attach(&pb.Open{As: "orders", Serves: true}).slice()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.start()
	eventually(t, "a second hello", func() bool {
		wide := false
		s.locked(func() { wide = len(s.hellos) == 2 && s.hellos[1].GetInterest().GetEverything() })
		return wide
	})
	n.attach(&pb.Open{As: "orders", Serves: true}).slice()
	eventually(t, "an interest in orders alone", func() bool {
		narrow := false
		s.locked(func() {
			if last := len(s.interests) - 1; last >= 0 {
				narrow = !s.interests[last].GetEverything() && len(s.interests[last].GetServices()) == 1
			}
		})
		return narrow
	})
}
