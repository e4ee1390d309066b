package agent

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// identifyByName gives a point the ID of the name in its attributes.
func identifyByName(w *world, _ attest.Peer, attrs registry.Attributes) []spiffe.ID {
	id, err := spiffe.NewID(w.domain, "/vms/"+attrs[attrClaim])
	if err != nil {
		return nil
	}
	return []spiffe.ID{id}
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("%s: got %v, want %s", what, err, want)
	}
}

func (p *attached) refused() error {
	p.t.Helper()
	_, err := p.stream.Recv()
	return err
}

func TestClaimHoldsForTheProcessTreeWhileItsStreamIsOpen(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	n.people.be(100, 1000)
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	if got := p.slice(); len(got.GetIds()) != 1 || got.GetIds()[0] != "spiffe://"+domain+"/vms/orders" {
		t.Fatalf("ids %v", got.GetIds())
	}
	n.people.be(101, 1000, 100)
	child, first, err := n.svids()
	if err != nil || first.GetSvids()[0].GetSpiffeId() != "spiffe://"+domain+"/vms/orders" {
		t.Fatalf("child: got %v, %v", first, err)
	}
	n.people.be(102, 1000, 7)
	_, _, err = n.svids()
	wantCode(t, "a process beside it", err, codes.PermissionDenied)
	p.close()
	_, err = child.Recv()
	wantCode(t, "child after the claim ended", err, codes.PermissionDenied)
}

func TestClaimNeedsRunAs(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.state.Objects = append(s.state.Objects, serviceObject("pay", "treasurer"), serviceObject("audit", "1000"), serviceObject("team", "%shop"))
	n := newNode(t, s)
	n.people.attrs["workload.unix.groups"] = "cdrom,shop"
	n.start()
	err := n.attach(&pb.Open{As: "pay"}).refused()
	wantCode(t, "name of another user", err, codes.PermissionDenied)
	if got := status.Convert(err).Message(); got != "user shop may not run as pay: the service's run_as is treasurer" {
		t.Errorf("message %q", got)
	}
	for _, name := range []string{"orders", "audit", "team"} {
		p := n.attach(&pb.Open{As: name})
		if got := p.slice(); got.GetIds()[0] != "spiffe://"+domain+"/vms/"+name {
			t.Errorf("%s: ids %v", name, got.GetIds())
		}
		p.close()
		eventually(t, "end of the claim", func() bool { return n.agent.points.count() == 0 })
	}
	wantCode(t, "malformed name", n.attach(&pb.Open{As: "../orders"}).refused(), codes.InvalidArgument)
	err = n.attach(&pb.Open{As: "ordesr"}).refused()
	wantCode(t, "unknown name", err, codes.NotFound)
}

// The claim of one user says nothing for a child that runs as another.
func TestClaimIsCheckedForTheAskingProcessToo(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.state.Objects = append(s.state.Objects, serviceObject("audit", "1000"))
	n := newNode(t, s)
	delete(n.people.attrs, "workload.unix.user")
	n.start()
	p := n.attach(&pb.Open{As: "audit"})
	p.slice()
	n.people.be(101, 4000, 100)
	_, _, err := n.svids()
	wantCode(t, "child of another user", err, codes.PermissionDenied)
}

func TestOneProcessClaimsOneName(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	first := n.attach(&pb.Open{As: "orders"})
	first.slice()
	wantCode(t, "second name", n.attach(&pb.Open{As: "web"}).refused(), codes.FailedPrecondition)
	again := n.attach(&pb.Open{As: "orders"})
	again.slice()
	first.close()
	eventually(t, "end of the first stream", func() bool { return n.agent.points.count() == 1 })
	if name, _, ok := n.agent.claims.of(attest.Peer{PID: 100, Started: 1}); !ok || name != "orders" {
		t.Error("the claim ended though one of its streams is open")
	}
	if _, _, ok := n.agent.claims.of(attest.Peer{PID: 100, Started: 2}); ok {
		t.Error("a process with a reused number has the claim")
	}
}

func TestRunAsEditWithdrawsTheIdentity(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders", Serves: true})
	p.slice()
	stream, _, err := n.svids()
	if err != nil {
		t.Fatal(err)
	}
	s.change([]*pb.Object{serviceObject("orders", "somebody-else")})
	if got := p.slice(); len(got.GetIds())+len(got.GetServices()) != 0 {
		t.Errorf("slice after the edit: %v, want nothing in it", got)
	}
	_, err = stream.Recv()
	wantCode(t, "workload after the edit", err, codes.PermissionDenied)
}

func TestIdentityRuleEditIsEvaluatedAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	n.people.be(200, 2000)
	stream, first, err := n.svids()
	if err != nil || len(first.GetSvids()) != 1 {
		t.Fatalf("got %v, %v", first, err)
	}
	s.change([]*pb.Object{identityObject(registry.IdentityRule{
		Name: "users", Nodes: []string{"vms"}, ID: "/vms/u/{workload.unix.user}", Require: "workload.unix.uid == 2000",
	})})
	next, err := stream.Recv()
	if err != nil || next.GetSvids()[0].GetSpiffeId() != "spiffe://"+domain+"/vms/u/shop" {
		t.Fatalf("after the edit: %v, %v", next, err)
	}
	s.change(nil, &pb.Key{Kind: "identity", Name: "users"})
	_, err = stream.Recv()
	wantCode(t, "after the rule was deleted", err, codes.PermissionDenied)
}

// Rules that do not compile here leave the former ones in force, and are named.
func TestIdentityRulesThatDoNotCompileAreReported(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	r := s.change([]*pb.Object{identityObject(registry.IdentityRule{Name: "new", Nodes: []string{"vms"}, ID: "/vms/{workload.tpm.ek}"})})
	eventually(t, "ack", func() bool { return s.acked(r) != nil })
	if got := s.acked(r).GetErrors(); len(got) != 1 {
		t.Errorf("errors %q, want one that names the rules", got)
	}
	n.people.be(200, 2000)
	if _, _, err := n.svids(); err != nil {
		t.Errorf("a workload of an old rule: %v", err)
	}
}

func TestDevDeclaresNamesOnFirstUse(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.state.Dev = true
	n := newNode(t, s)
	n.cfg.Declare = func(context.Context, string) error {
		s.change([]*pb.Object{serviceObject("cart")})
		return nil
	}
	n.start()
	n.agent.uid = 1000
	p := n.attach(&pb.Open{As: "cart", Serves: true})
	if got := p.slice(); len(got.GetServices()) != 1 || got.GetServices()[0].GetName() != "cart" || !got.GetDev() {
		t.Errorf("got %v", got)
	}
	n.people.be(300, 3000)
	wantCode(t, "another user in dev", n.attach(&pb.Open{As: "cart"}).refused(), codes.PermissionDenied)
}

func TestOpenMustBeUnderstood(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s)
	n.start()
	p := n.attach(&pb.Open{As: "orders"})
	p.slice()
	p.send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Open{Open: &pb.Open{As: "web", Schema: policy.Schema}}})
	wantCode(t, "second open", p.refused(), codes.InvalidArgument)
	n.people.be(300, 3000)
	wantCode(t, "no identity", n.attach(&pb.Open{Serves: true}).refused(), codes.PermissionDenied)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := pb.NewEnforcementClient(n.dial()).Enforce(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Ack{Ack: &pb.PolicyAck{}}}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, "ack before open", err, codes.InvalidArgument)
}
