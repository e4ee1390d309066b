package server_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// owned is a service of a team.
func owned(team, name string, identities ...string) *pb.Object {
	o := service(name, identities...)
	o.GetService().Team = team
	return o
}

func puts(objects ...*pb.Object) *pb.ApplyRequest {
	return &pb.ApplyRequest{Put: objects, Owner: "cli", NoWait: true}
}

func (r *rig) revision() uint64 {
	status, err := r.admin.Status(r.t.Context(), &pb.StatusRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	return status.GetRevision()
}

// An operator bound to a team changes its services and the rules to them, and
// nothing else; a dry run says what would be refused, to whoever asks.
func TestOperatorsOfATeamChangeWhatIsTheirs(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: append(teams(), owned("shop", "orders", "/vms/shop/orders"), owned("stock", "stock", "/vms/stock/api"), service("web", "/vms/web"))})
	alice := r.person("alice", "operator", "shop")
	apply := func(req *pb.ApplyRequest) error {
		_, err := alice.Apply(t.Context(), req)
		return err
	}
	for what, req := range map[string]*pb.ApplyRequest{
		"own rule":                puts(rule("r", "web", "orders", "GET /a")),
		"new service with a rule": puts(owned("shop", "cart", "/vms/shop/cart"), rule("c", "web", "cart", "GET /a")),
	} {
		if err := apply(req); err != nil {
			t.Errorf("%s: %v", what, api.FromWire(err))
		}
	}
	if err := apply(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "service", Name: "cart"}, {Kind: "rule", Name: "c"}}, Owner: "cli", NoWait: true}); err != nil {
		t.Errorf("taking the own service away: %v", api.FromWire(err))
	}
	before := r.revision()
	both := puts(rule("own", "web", "orders", "GET /b"), rule("theirs", "orders", "stock", "GET /a"))
	wantDenied(t, "one rule of two is not ours", apply(both), "rule theirs to stock: service stock is of team stock")
	wantDenied(t, "a service of another team", apply(puts(owned("shop", "stock", "/vms/shop/stock"))), "service stock: service stock is of team stock")
	wantDenied(t, "a service of nobody", apply(puts(owned("shop", "web", "/vms/web"))), "service web is no team's")
	wantDenied(t, "an ID of others", apply(puts(owned("shop", "spy", "/vms/stock/api"))), "is no ID of team shop")
	wantDenied(t, "a team", apply(puts(teams()[0])), "needs the role admin")
	_, err := alice.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n9", Class: "vms"})
	wantDenied(t, "a node", err, "is not for operators of a team, and alice is bound to shop")
	if after := r.revision(); after != before {
		t.Errorf("revision %d after refused changes, want %d", after, before)
	}
	dry := proto.CloneOf(both)
	dry.DryRun = true
	result, err := alice.Apply(t.Context(), dry)
	if err != nil || len(result.GetRefused()) != 1 || !strings.Contains(result.GetRefused()[0], "an operator of team stock can, or an admin") {
		t.Errorf("dry run: got %v, %v", result.GetRefused(), err)
	}
	if result, err = r.admin.Apply(t.Context(), dry); err != nil || len(result.GetRefused()) != 0 {
		t.Errorf("dry run of root: got %v, %v", result.GetRefused(), err)
	}
}

// Prune deletes what nobody named; it asks for each.
func TestPruneAsksWhoseItIs(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: teams(), Owner: "platform"})
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{owned("shop", "orders", "/vms/shop/orders"), owned("stock", "stock", "/vms/stock/api"), rule("r", "orders", "stock", "GET /a")}})
	alice := r.person("alice", "operator", "shop")
	_, err := alice.Apply(t.Context(), &pb.ApplyRequest{Owner: "cli", Prune: true, Put: []*pb.Object{owned("shop", "orders", "/vms/shop/orders"), owned("stock", "stock", "/vms/stock/api")}})
	wantDenied(t, "prune", err, "rule r to stock")
}

// Who is bound, unbound or bound to another team is so from the next call on; a
// team with services or operators is not deleted.
func TestBindingTakesEffectAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: append(teams(), owned("shop", "orders", "/vms/shop/orders"), service("web", "/vms/web"))})
	alice := r.person("alice", "operator", "stock")
	ours := puts(rule("r", "web", "orders", "GET /a"))
	_, err := alice.Apply(t.Context(), ours)
	wantDenied(t, "bound to stock", err, "is of team shop")
	set := func(req *pb.SetAdminRoleRequest) error {
		req.Name = "alice"
		_, err := r.admin.SetAdminRole(t.Context(), req)
		return api.FromWire(err)
	}
	if err := set(&pb.SetAdminRoleRequest{Role: "operator", Teams: []string{"shop"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Apply(t.Context(), ours); err != nil {
		t.Errorf("bound to shop: %v", api.FromWire(err))
	}
	if err := set(&pb.SetAdminRoleRequest{Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	_, err = alice.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n9", Class: "vms"})
	wantDenied(t, "the same role again keeps the team", err, "bound to shop")
	for _, name := range []string{"shop", "stock"} {
		_, err := r.admin.Apply(t.Context(), &pb.ApplyRequest{Delete: []*pb.Key{{Kind: "team", Name: name}}, Owner: "cli", NoWait: true})
		if err = api.FromWire(err); fault.Is(err, fault.Conflict) != (name == "shop") {
			t.Errorf("delete team %s: got %v", name, err)
		}
	}
	if err := set(&pb.SetAdminRoleRequest{Role: "operator", Unbind: true}); err != nil {
		t.Fatal(err)
	}
	if _, err = alice.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n9", Class: "vms"}); err != nil {
		t.Errorf("unbound: %v", api.FromWire(err))
	}
	for what, req := range map[string]*pb.SetAdminRoleRequest{
		"unknown team":     {Role: "operator", Teams: []string{"shopp"}},
		"viewer of a team": {Role: "viewer", Teams: []string{"shop"}},
		"both":             {Role: "operator", Teams: []string{"shop"}, Unbind: true},
	} {
		if err := set(req); err == nil || fault.KindOf(err) == fault.Denied {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

// Attack 69: whoever may claim a team's service by its name gets that service's
// identities and no other. The name is the team's to choose, and an identity rule
// may make of it an ID that is somebody else's.
func TestAttack69TeamsServiceLendsOnlyItsIdentities(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.apply(&pb.ApplyRequest{Put: append(teams(), service("books", "/vms/ledger"), service("vault", "/vms/vault"), rule("r", "books", "vault", "GET /{**}"))})
	a := r.joined("n1")
	alice := r.person("alice", "operator", "shop")
	ledger, cart := owned("shop", "ledger", "/vms/shop/ledger"), owned("shop", "cart", "/vms/shop/cart")
	ledger.GetService().RunAs, cart.GetService().RunAs = []string{"alice"}, []string{"alice"}
	if _, err := alice.Apply(t.Context(), puts(ledger, cart)); err != nil {
		t.Fatal(api.FromWire(err))
	}
	r.apply(&pb.ApplyRequest{Owner: "platform", Put: []*pb.Object{{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
		Name: "shop", Id: "/{node.class}/shop/{workload.kith.as}", Nodes: []string{"vms"},
	}}}}})
	attrs := func(as string) map[string]string {
		return map[string]string{"workload.unix.uid": "1001", "workload.unix.user": "alice", "workload.kith.as": as}
	}
	for _, c := range []struct{ rule, id, as, want string }{
		{"as", "spiffe://acme.example/vms/ledger", "ledger", "denied"}, // books'
		{"as", "spiffe://acme.example/vms/cart", "cart", "denied"},     // nobody's yet
		{"shop", "spiffe://acme.example/vms/shop/cart", "cart", ""},
	} {
		got, err := a.sign(c.rule, c.id, attrs(c.as))
		if err != nil {
			t.Fatal(err)
		}
		if got.GetErrorKind() != c.want || c.want != "" && !strings.Contains(got.GetError(), "team shop") {
			t.Errorf("%s as %s: got %q %q, want %q", c.id, c.as, got.GetErrorKind(), got.GetError(), c.want)
		}
	}
}
