package server_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/run/runtest"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

func devServer(c *server.Config) { c.Dev = true }

func asAway(err error, into *api.Away) bool { return errors.As(err, into) }

// Attack 63: a join token that was stolen after its use is worth nothing.
func TestThreatT10TokenAdmitsExactlyOnce(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	line := r.line("n1")
	uses := 200
	if runtest.Raced {
		uses = 50
	}
	var told atomic.Int32
	var trying sync.WaitGroup
	for range uses {
		key := newKey(t)
		trying.Go(func() {
			// A busy server may cut a connection before it gives a verdict: that
			// use of the token comes again, until it was admitted or refused.
			for t.Context().Err() == nil {
				_, err := r.attestBy(line, attest.JoinToken, key, byToken(t))
				if err == nil {
					told.Add(1)
				}
				if err == nil || fault.Is(err, fault.Denied) {
					return
				}
			}
		})
	}
	trying.Wait()
	// The answer to the one may have been lost on the way; its record is not.
	if got := told.Load(); got > 1 {
		t.Errorf("%d uses of one token: %d were told that they are admitted, want at most 1", uses, got)
	}
	if got := r.audit.succeeded(audit.Admitted, "node n1"); got != 1 {
		t.Errorf("%d uses of one token: %d admissions on record, want 1", uses, got)
	}
}

func TestRefusalsAreNeutralAndSayWhatToDo(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	used := r.line("n1")
	if _, err := r.attestBy(used, attest.JoinToken, newKey(t), byToken(t)); err != nil {
		t.Fatal(err)
	}
	old := r.line("n2")
	r.clock.add(11 * time.Minute)
	unknown := old[:strings.LastIndex(old, "/")+1] + strings.Repeat("A", 43)
	var texts []string
	for _, line := range []string{used, old, unknown} {
		_, err := r.attestBy(line, attest.JoinToken, newKey(t), byToken(t))
		if !fault.Is(err, fault.Denied) || !strings.Contains(fault.HintOf(err), "kith nodes add") {
			t.Errorf("refusal: got %v (hint %q), want Denied and the next step", err, fault.HintOf(err))
			continue
		}
		texts = append(texts, err.Error())
	}
	if len(slices.Compact(texts)) != 1 {
		t.Errorf("refusals tell tokens apart: %q", texts)
	}
}

func TestNodeRejoinsByItsKey(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	line := r.line("other") // only for address and pin
	r.clock.add(48 * time.Hour)
	r.apply(&pb.ApplyRequest{Put: shop()}) // the store answers at the new time
	admitted, err := r.attestBy(line, attest.NodeKey, a.key, byKey(a.key))
	if err != nil || admitted.GetNode() != "n1" || admitted.GetClass() != "vms" {
		t.Errorf("rejoin: got %v %v, want n1 of class vms", admitted, err)
	}
	if _, err := r.attestBy(line, attest.NodeKey, newKey(t), byKey(newKey(t))); !fault.Is(err, fault.Denied) {
		t.Errorf("rejoin with a foreign key: got %v, want Denied", err)
	}
	r.clock.add(40 * 24 * time.Hour)
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{service("late", "/vms/late")}})
	if _, err := r.attestBy(line, attest.NodeKey, a.key, byKey(a.key)); !fault.Is(err, fault.Denied) {
		t.Errorf("rejoin after 40 days: got %v, want Denied", err)
	}
}

func TestAddNodeChecksClassAndTime(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	for name, req := range map[string]*pb.AddNodeRequest{
		"unknown class": {Name: "n1", Class: "vm"},
		"long ttl":      {Name: "n1", Class: "vms", Ttl: durationpb.New(11 * time.Minute)},
		"bad name":      {Name: "../n1", Class: "vms"},
		"reserved name": {Name: "kith", Class: "vms"},
	} {
		_, err := r.admin.AddNode(t.Context(), req)
		if err = api.FromWire(err); err == nil || fault.KindOf(err) == fault.Internal {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

func TestBanCutsAtOnce(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	if _, err := r.admin.BanNode(t.Context(), &pb.BanNodeRequest{Name: "n1"}); err != nil {
		t.Fatal(err)
	}
	within(t, "stream of the banned node to end", func() bool { return get(a, func() bool { return !a.live }) })
	if !fault.Is(a.ended, fault.Denied) {
		t.Errorf("the stream ended with %v, want Denied", a.ended)
	}
	if _, err := a.sign("as", "spiffe://acme.example/vms/orders", asOrders()); !fault.Is(err, fault.Denied) {
		t.Errorf("signing for a banned node: got %v, want Denied", err)
	}
	if _, err := a.node.RenewNode(t.Context(), &pb.RenewNodeRequest{Csr: csrOf(t, a.key)}); !fault.Is(api.FromWire(err), fault.Denied) {
		t.Errorf("renewal of a banned node: got %v, want Denied", err)
	}
	if _, err := r.attestBy(r.s.Addr()+"/"+r.s.Pin().String()+"/x", attest.NodeKey, a.key, byKey(a.key)); err == nil {
		t.Error("a banned node rejoined")
	}
	if _, err := r.admin.BanNode(t.Context(), &pb.BanNodeRequest{Name: "n1", Lift: true}); err != nil {
		t.Fatal(err)
	}
	a.connect()
	within(t, "the node to be back", func() bool { return r.status().GetNodesConnected() == 1 })
}

func TestRemovedNodeIsUnknown(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	if _, err := r.admin.RemoveNode(t.Context(), &pb.RemoveNodeRequest{Name: "n1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.node.RenewNode(t.Context(), &pb.RenewNodeRequest{Csr: csrOf(t, a.key)}); !fault.Is(api.FromWire(err), fault.Denied) {
		t.Errorf("renewal of a removed node: got %v, want Denied", err)
	}
	if _, err := r.admin.RemoveNode(t.Context(), &pb.RemoveNodeRequest{Name: "n1"}); !fault.Is(api.FromWire(err), fault.NotFound) {
		t.Errorf("second removal: got %v, want NotFound", err)
	}
}

// Attack 63: a node says for whom it asks, and gets only what the rules give on
// nodes of its class, to users that the service names.
func TestThreatT08ServerDecidesWhatIsSigned(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	good := "spiffe://acme.example/vms/orders"
	with := func(name, value string) map[string]string {
		attrs := asOrders()
		attrs[name] = value
		return attrs
	}
	for name, c := range map[string]struct {
		rule, id string
		attrs    map[string]string
		want     string // in the error; empty: signed
	}{
		"own user":              {"as", good, asOrders(), ""},
		"other ID":              {"as", "spiffe://acme.example/vms/web", asOrders(), "conflict"},
		"other trust domain":    {"as", "spiffe://evil.example/vms/orders", asOrders(), "conflict"},
		"reserved":              {"as", "spiffe://acme.example/kith/node/n2", asOrders(), "conflict"},
		"unknown rule":          {"nope", good, asOrders(), "denied"},
		"foreign user":          {"as", good, with("workload.unix.user", "mallory"), "denied"},
		"unknown service":       {"as", good, with("workload.kith.as", "order"), "denied"},
		"node class of its own": {"as", "spiffe://acme.example/root/orders", with("node.class", "root"), "conflict"},
		"escaping unit":         {"unit", good, map[string]string{"workload.systemd.unit": "../orders.service"}, "denied"},
		"malformed attribute":   {"as", good, with("workload.unix.uid", "1e3"), "invalid"},
	} {
		got, err := a.sign(c.rule, c.id, c.attrs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.GetErrorKind() != c.want || (c.want == "") != (len(got.GetChain()) == 2) {
			t.Errorf("%s: got %q %q with %d certificates, want %q", name, got.GetErrorKind(), got.GetError(), len(got.GetChain()), c.want)
		}
	}
	ids, err := r.admin.ListIdentities(t.Context(), &pb.ListIdentitiesRequest{})
	if err != nil || len(ids.GetIdentities()) != 1 || ids.GetIdentities()[0].GetService() != "orders" {
		t.Errorf("identities: got %v %v, want orders' one", ids, err)
	}
}

func TestRenewalIsForTheBoundKey(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	if _, err := a.node.RenewNode(t.Context(), &pb.RenewNodeRequest{Csr: csrOf(t, a.key)}); err != nil {
		t.Errorf("renewal: %v", err)
	}
	_, err := a.node.RenewNode(t.Context(), &pb.RenewNodeRequest{Csr: csrOf(t, newKey(t))})
	if !fault.Is(api.FromWire(err), fault.Denied) {
		t.Errorf("renewal with another key: got %v, want Denied", err)
	}
}

func TestStaleSnapshotStopsSigning(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	r.store.set(true)
	r.clock.add(30 * time.Minute) // SVIDs live 1 h
	if got, err := a.sign("as", "spiffe://acme.example/vms/orders", asOrders()); err != nil || got.GetError() != "" {
		t.Errorf("half an hour stale: got %v %v, want a chain", got, err)
	}
	line := r.s.Addr() + "/" + r.s.Pin().String() + "/x"
	if _, err := r.attestBy(line, attest.NodeKey, a.key, byKey(a.key)); err != nil {
		t.Errorf("rejoin half an hour stale: %v", err)
	}
	r.clock.add(40 * time.Minute)
	var gone api.Away
	if _, err := r.attestBy(line, attest.NodeKey, a.key, byKey(a.key)); !asAway(err, &gone) {
		t.Errorf("rejoin 70 minutes stale: got %v, want Away", err)
	}
}

func TestSecondAdmissionEndsTheFirst(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	a.connect()
	a.at(1)
	b := r.joined("n1")
	within(t, "the stream of the first machine to end", func() bool { return get(a, func() bool { return !a.live }) })
	if _, err := a.sign("as", "spiffe://acme.example/vms/orders", asOrders()); !fault.Is(err, fault.Denied) {
		t.Errorf("signing for the first machine: got %v, want Denied", err)
	}
	b.connect()
	b.at(1)
}

func TestEnrolmentSurvivesARestart(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	spent := r.line("n2")
	if _, err := r.attestBy(spent, attest.JoinToken, newKey(t), byToken(t)); err != nil {
		t.Fatal(err)
	}
	open := r.line("n3")
	r.stop()
	r.start()
	here := func(line string) string { return r.s.Addr() + line[strings.Index(line, "/"):] }
	if _, err := r.attestBy(here(spent), attest.JoinToken, newKey(t), byToken(t)); !fault.Is(err, fault.Denied) {
		t.Errorf("a used token after a restart: got %v, want Denied", err)
	}
	if _, err := r.attestBy(here(open), attest.JoinToken, newKey(t), byToken(t)); err != nil {
		t.Errorf("an unused token after a restart: %v", err)
	}
	if _, err := r.attestBy(here(open), attest.NodeKey, a.key, byKey(a.key)); err != nil {
		t.Errorf("rejoin after a restart: %v", err)
	}
}

func TestClockThatWentBackIsRefused(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.stop()
	r.clock.add(-time.Hour)
	_, err := server.New(t.Context(), r.cfg)
	if hint := fault.HintOf(err); !fault.Is(err, fault.Conflict) || !strings.Contains(hint, "timedatectl") || !strings.Contains(hint, "it was ahead before") {
		t.Errorf("start an hour before the last known time: got %v, want a refusal that says what to do", err)
	}
}

func TestStartRefusals(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	for name, c := range map[string]struct {
		change func(*server.Config)
		want   string
	}{
		"port taken":     {func(c *server.Config) { c.Listen = r.s.Addr() }, "taken"},
		"socket in use":  {func(c *server.Config) { c.AdminSocket = r.cfg.AdminSocket }, "another server answers"},
		"long socket":    {func(c *server.Config) { c.AdminSocket = "/" + strings.Repeat("s", 200) }, "at most 107"},
		"no trust":       {func(c *server.Config) { c.TrustDomain = spiffe.TrustDomain{} }, "trust_domain"},
		"bad name":       {func(c *server.Config) { c.Name = "a/b" }, "server.name"},
		"public dev":     {func(c *server.Config) { c.Dev, c.Listen = true, "0.0.0.0:0" }, "loopback"},
		"another domain": {func(c *server.Config) { c.Store = r.cfg.Store; c.TrustDomain = domain(t, "other.example") }, "acme.example"},
	} {
		other := newRig(t, c.change)
		s, err := server.New(t.Context(), other.cfg)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func domain(t *testing.T, name string) spiffe.TrustDomain {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(name)
	if err != nil {
		t.Fatal(err)
	}
	return td
}
