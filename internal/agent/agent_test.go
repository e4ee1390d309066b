package agent

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func TestNodeJoinsAndServesAWorkload(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	n.people.be(200, 2000)
	_, first, err := n.svids()
	if err != nil || first.GetSvids()[0].GetSpiffeId() != "spiffe://"+domain+"/vms/shop" {
		t.Fatalf("got %v, %v", first, err)
	}
	eventually(t, "ack of the first state", func() bool { return s.acked(1) != nil })
	n.people.be(300, 3000)
	_, _, err = n.svids()
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a process without an identity: got %v, want PermissionDenied", err)
	}
}

func TestDecisionsAreKeptAndAnswered(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	p.slice()
	p.send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Report{Report: &pb.Report{Decisions: []*pb.Decision{
		{Id: "aaaa", Effect: "allow", Node: "elsewhere", ToId: "spiffe://" + domain + "/vms/admin"},
		{Id: "bbbb", Effect: "deny"},
		{Effect: "deny"},
	}}}})
	ask := func(q *pb.WhyQuery) []*pb.Decision {
		s.locked(func() {
			s.answers = nil
			s.push(&pb.SyncResponse{Message: &pb.SyncResponse_Why{Why: q}})
		})
		var got []*pb.Decision
		eventually(t, "answer", func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.answers) == 0 || s.answers[0].GetQuery() != q.GetQuery() {
				return false
			}
			got = s.answers[0].GetDecisions()
			return true
		})
		return got
	}
	eventually(t, "report", func() bool { return len(ask(&pb.WhyQuery{Query: 1, Limit: 10})) == 2 })
	if got := ask(&pb.WhyQuery{Query: 2, Last: true}); len(got) != 1 || got[0].GetId() != "bbbb" {
		t.Errorf("last: got %v", got)
	}
	got := ask(&pb.WhyQuery{Query: 3, Id: "aaaa"})
	if len(got) != 1 || got[0].GetNode() != "vm-7" || got[0].GetToId() != "spiffe://"+domain+"/vms/orders" {
		t.Errorf("by id: got %v, want it with the node and point we know", got)
	}
	if got := ask(&pb.WhyQuery{Query: 4, Limit: 10, DeniedOnly: true}); len(got) != 1 || got[0].GetId() != "bbbb" {
		t.Errorf("denied only: got %v", got)
	}
}

// Rule 74, 79: a TCP socket would take anybody's word for who connects, so there is
// none to configure; the message says which socket there is.
func TestRule74And79NoTCPSocket(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, set := range map[string]func(*Config){
		"agent":  func(c *Config) { c.Socket = "tcp://127.0.0.1:8081" },
		"authz":  func(c *Config) { c.AuthzSocket = "tcp://127.0.0.1:8081" },
		"broker": func(c *Config) { c.Broker.Socket = "tcp://127.0.0.1:8081" },
	} {
		n := newNode(t, s)
		set(&n.cfg)
		a, err := New(n.cfg)
		if err == nil {
			a.Close()
		}
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), `"tcp://127.0.0.1:8081": want the path of a unix socket`) {
			t.Errorf("%s: got %v, want a refusal that says what is wanted", name, err)
		}
	}
}
