package server_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

func TestBootstrapStartsWithRules(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	listed, err := r.admin.List(t.Context(), &pb.ListRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range listed.GetObjects() {
		names = append(names, objectName(o))
	}
	if got, want := strings.Join(names, ", "), "node vms, identity as, identity unit"; got != want {
		t.Errorf("starting objects: got %s, want %s", got, want)
	}
	if listed.GetRevision() != 1 {
		t.Errorf("revision: got %d, want 1", listed.GetRevision())
	}
}

func TestRestartKeepsRootAndRevision(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	before := r.status()
	a := r.joined("n1")
	a.connect()
	a.at(2)
	a.disconnect()
	r.stop()
	r.start()
	after := r.status()
	if before.GetPin() != after.GetPin() || before.GetRevision() != after.GetRevision() {
		t.Errorf("after restart: pin %s revision %d, want %s and %d", after.GetPin(), after.GetRevision(), before.GetPin(), before.GetRevision())
	}
	if after.GetNodes() != 1 {
		t.Errorf("nodes after restart: got %d, want 1", after.GetNodes())
	}
}

func TestApplyDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	result := r.apply(&pb.ApplyRequest{Put: shop(), DryRun: true})
	if len(result.GetChanges()) != 2 || !strings.Contains(result.GetChanges()[0].GetDiff(), "+") {
		t.Errorf("dry run: got %v, want two creations with a diff", result)
	}
	if got := r.status(); got.GetRevision() != 1 || got.GetServices() != 0 {
		t.Errorf("after a dry run: revision %d, %d services; want 1 and 0", got.GetRevision(), got.GetServices())
	}
}

func TestApplyOfTheSameChangesNothing(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	if again := r.apply(&pb.ApplyRequest{Put: shop()}); len(again.GetChanges()) != 0 || again.GetRevision() != 2 {
		t.Errorf("second apply: got %v, want no change at revision 2", again)
	}
}

func TestOwnersKeepTheirOwn(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop(), Owner: "shop"})
	err := r.refused(&pb.ApplyRequest{Put: []*pb.Object{service("orders", "/vms/other")}, Owner: "other"}, fault.Conflict, "belongs to owner shop")
	if fault.HintOf(err) == "" {
		t.Error("an owner conflict has no hint")
	}
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("batch", "/vms/batch")}, Owner: "other"})
	pruned := r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("web", "/vms/web")}, Owner: "shop", Prune: true})
	if len(pruned.GetChanges()) != 1 || pruned.GetChanges()[0].GetVerb() != "delete" || pruned.GetChanges()[0].GetKey().GetName() != "orders" {
		t.Errorf("prune: got %v, want orders deleted and nothing else", pruned.GetChanges())
	}
	if got := r.status().GetServices(); got != 2 {
		t.Errorf("services after prune: got %d, want web and batch", got)
	}
}

func TestReferencedServiceStays(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: append(shop(), rule("web-reads", "web", "orders", "GET /v1/orders/{**}"))})
	for _, name := range []string{"orders", "web"} {
		r.refused(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "service", Name: name}}}, fault.Conflict, "web-reads")
	}
	r.apply(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "rule", Name: "web-reads"}, {Kind: "service", Name: "orders"}}})
}

func TestAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	bad := []*pb.Object{rule("one", "web", "order", "GET /"), rule("two", "nobody", "orders", "FETCH")}
	err := r.refused(&pb.ApplyRequest{Put: append(shop(), bad...)}, fault.Invalid, "order")
	for _, want := range []string{"rules.one.to", "rules.two.from", "rules.two.allow"} {
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("faults: %q is missing in:\n%v", want, err)
		}
	}
	r.refused(&pb.ApplyRequest{Delete: []*pb.Key{{Kind: "service", Name: "orders"}}}, fault.NotFound, "orders")
	if got := r.status().GetRevision(); got != 1 {
		t.Errorf("revision after refusals: got %d, want 1", got)
	}
}

func TestOldWarningsAreNotRepeated(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	if got := r.apply(&pb.ApplyRequest{Put: shop()}).GetWarnings(); len(got) != 0 {
		t.Errorf("a change of services warns of the starting rules: %q", got)
	}
	everybody := &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{Name: "all", Id: "/{node.class}/all"}}}
	if got := r.apply(&pb.ApplyRequest{Put: []*pb.Object{everybody}}).GetWarnings(); !strings.Contains(strings.Join(got, "\n"), "identities.all") {
		t.Errorf("a rule for every process: got warnings %q, want one about it", got)
	}
}

func TestTTLThatTheBudgetForbidsIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	long := &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
		Name: "long", Id: "/{node.class}/{workload.unix.user}", Ttl: durationpb.New(2 * time.Hour),
	}}}
	err := r.refused(&pb.ApplyRequest{Put: []*pb.Object{long}}, fault.Invalid, "identities.long.ttl")
	if !strings.Contains(fault.HintOf(err), "control_plane_outage") {
		t.Errorf("hint: got %q, want the budget", fault.HintOf(err))
	}
}

func TestCreateOnlyRefusesToReplace(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: append(shop(), rule("r", "web", "orders", "GET /a"))})
	r.refused(&pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /b")}, CreateOnly: true}, fault.Conflict, "rule r exists")
}

func TestDeclareIsForDevOnly(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	err := r.refused(&pb.ApplyRequest{Declare: []string{"order"}}, fault.NotFound, "order")
	if !strings.Contains(fault.HintOf(err), "orders") {
		t.Errorf("hint: got %q, want the nearest name", fault.HintOf(err))
	}
}

func TestDevDeclaresOnFirstUse(t *testing.T) {
	t.Parallel()
	r := start(t, devServer)
	allow := rule("web-orders", "web", "orders", "GET /{**}")
	result := r.apply(&pb.ApplyRequest{Declare: []string{"web", "orders"}, Put: []*pb.Object{allow}})
	if len(result.GetChanges()) != 3 {
		t.Errorf("changes: got %v, want two services and a rule", result.GetChanges())
	}
	// A service that was declared belongs to whoever applies it first.
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("orders", "/dev/orders")}, Owner: "shop"})
}

func TestApplyNamesLaggards(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	fast, slow := r.joined("fast"), r.joined("slow")
	fast.connect()
	slow.connect()
	fast.at(1)
	slow.at(1)
	get(slow, func() bool { slow.held = true; return true })
	result := r.apply(&pb.ApplyRequest{Put: shop(), Wait: durationpb.New(200 * time.Millisecond)})
	for wait := time.Second; result.GetAcked() == 0 && wait < time.Minute; wait *= 2 { // a host that is loaded
		result = r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("r-"+wait.String(), "web", "orders", "GET /a")}, Wait: durationpb.New(wait)})
	}
	if result.GetAffected() != 2 || result.GetAcked() != 1 || strings.Join(result.GetLaggards(), " ") != "slow" {
		t.Errorf("result: got %v, want slow to lag", result)
	}
}

func TestApplyReportsWhatCouldNotSwap(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.ackError = "orders: schema too new"
	a.connect()
	a.at(1)
	result := r.apply(&pb.ApplyRequest{Put: shop()})
	if result.GetAcked() != 1 || !strings.Contains(strings.Join(result.GetWarnings(), "\n"), "n1: orders: schema too new") {
		t.Errorf("result: got %v, want the enforcement point's error", result)
	}
}

func TestChangesAreAudited(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	if got := r.audit.count(audit.Changed, "create service orders"); got != 2 {
		t.Errorf("audit of the change: got %d records, want one before and one after", got)
	}
}

func TestStoreAway(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	line := r.line("n2")
	r.store.set(true)
	began := time.Now()
	_, err := r.admin.Apply(t.Context(), &pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /")}})
	var gone api.Away
	if err = api.FromWire(err); !asAway(err, &gone) || time.Since(began) > time.Second {
		t.Errorf("apply with the store away: got %v after %s, want Away within a second", err, time.Since(began))
	}
	if _, err := r.attestBy(line, "join_token", newKey(t), byToken(t)); !asAway(err, &gone) {
		t.Errorf("join with the store away: got %v, want Away", err)
	}
	if got, err := a.sign("as", "spiffe://acme.example/vms/orders", asOrders()); err != nil || got.GetError() != "" {
		t.Errorf("signing with the store away: got %v %v, want a chain", got, err)
	}
	if _, err := a.node.RenewNode(t.Context(), &pb.RenewNodeRequest{Csr: csrOf(t, a.key)}); err != nil {
		t.Errorf("renewal with the store away: %v", err)
	}
	r.store.set(false)
	within(t, "changes after the store is back", func() bool {
		_, err := r.admin.Apply(t.Context(), &pb.ApplyRequest{Put: []*pb.Object{rule("r", "web", "orders", "GET /")}})
		return err == nil
	})
	if _, err := r.attestBy(line, "join_token", newKey(t), byToken(t)); err != nil {
		t.Errorf("the token was spent by an attestation that failed: %v", err)
	}
}
