package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

func remotely(c *server.Config) { c.AdminListen = "127.0.0.1:0" }

// person is an admin elsewhere.
type person struct {
	source
	t    testing.TB
	key  *ecdsa.PrivateKey
	conn *grpc.ClientConn
	pb.AdminClient
}

// adminLine makes an admin line.
func (r *rig) adminLine(name, role string, teams ...string) string {
	r.t.Helper()
	added, err := r.admin.AddAdmin(r.t.Context(), &pb.AddAdminRequest{Name: name, Role: role, Teams: teams})
	if err != nil {
		r.t.Fatalf("AddAdmin: %v", api.FromWire(err))
	}
	return added.GetJoin()
}

// joinAdmin uses a line.
func (r *rig) joinAdmin(line string, key *ecdsa.PrivateKey) (*pb.AdmittedAdmin, error) {
	r.t.Helper()
	addr, text, config := pinned(r.t, line, r.clock.Now)
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	token, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		r.t.Fatal(err)
	}
	in, err := pb.NewAdminAdmissionClient(conn).JoinAdmin(r.t.Context(), &pb.JoinAdminRequest{Token: token, Csr: csrOf(r.t, key)})
	return in, api.FromWire(err)
}

// person is an admin who has joined and is connected.
func (r *rig) person(name, role string, teams ...string) *person {
	r.t.Helper()
	p := &person{t: r.t, key: newKey(r.t)}
	in, err := r.joinAdmin(r.adminLine(name, role, teams...), p.key)
	if err != nil {
		r.t.Fatalf("join %s: %v", name, err)
	}
	p.take(in)
	config := spiffe.ClientTLS(p, r.clock.Now, func(spiffe.ID) error { return nil })
	p.conn, err = grpc.NewClient("passthrough:///"+r.s.AdminAddr(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { p.conn.Close() })
	p.AdminClient = pb.NewAdminClient(p.conn)
	return p
}

func (p *person) take(in *pb.AdmittedAdmin) {
	p.t.Helper()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.svid, err = spiffe.ParseX509SVID(slices.Concat(in.GetChain()...), pkcs8); err != nil {
		p.t.Fatalf("admin SVID: %v", err)
	}
	if p.bundle, err = spiffe.ParseBundle(p.svid.ID.TrustDomain(), in.GetBundle().GetJwks()); err != nil {
		p.t.Fatalf("bundle: %v", err)
	}
}

func (r *rig) role(name, role string) {
	r.t.Helper()
	if _, err := r.admin.SetAdminRole(r.t.Context(), &pb.SetAdminRoleRequest{Name: name, Role: role}); err != nil {
		r.t.Fatalf("SetAdminRole: %v", api.FromWire(err))
	}
}

func wantDenied(t *testing.T, what string, err error, text string) {
	t.Helper()
	if err = api.FromWire(err); !fault.Is(err, fault.Denied) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: got %v, want Denied with %q", what, err, text)
	}
}

func TestAdminTokenAdmitsExactlyOnce(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	line := r.adminLine("alice", "viewer")
	var joined atomic.Int32
	var trying sync.WaitGroup
	for range 10 { // below the rate limit
		key := newKey(t)
		trying.Go(func() {
			if _, err := r.joinAdmin(line, key); err == nil {
				joined.Add(1)
			} else if !fault.Is(err, fault.Denied) {
				t.Errorf("refusal: got %v, want Denied", err)
			}
		})
	}
	trying.Wait()
	if got := joined.Load(); got != 1 {
		t.Errorf("10 uses of one token: %d joined, want 1", got)
	}
}

func TestAdminRefusalsAreNeutralAndAudited(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	used := r.adminLine("a1", "viewer")
	if _, err := r.joinAdmin(used, newKey(t)); err != nil {
		t.Fatal(err)
	}
	old := r.adminLine("a2", "viewer")
	r.clock.add(11 * time.Minute)
	unknown := old[:strings.LastIndex(old, "/")+1] + strings.Repeat("A", 43)
	node := strings.Split(r.line("n1"), "/")
	crossed := strings.Split(old, "/")[0] + "/" + node[1] + "/" + node[2]
	var texts []string
	for name, line := range map[string]string{"used": used, "old": old, "unknown": unknown, "a node's": crossed} {
		_, err := r.joinAdmin(line, newKey(t))
		if !fault.Is(err, fault.Denied) || !strings.Contains(fault.HintOf(err), "kith ids admins add") {
			t.Errorf("%s token: got %v (hint %q), want Denied and the next step", name, err, fault.HintOf(err))
			continue
		}
		texts = append(texts, err.Error())
	}
	if len(slices.Compact(texts)) != 1 {
		t.Errorf("refusals tell tokens apart: %q", texts)
	}
	if r.audit.count(audit.Admitted, "admin a2") != 1 || r.audit.count(audit.Admitted, "admin a1") != 2 {
		t.Errorf("audit: want the refusal of a2, and a1 before and after")
	}
}

func TestAddAdminChecksWhatItIsAsked(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	for name, req := range map[string]*pb.AddAdminRequest{
		"no role":      {Name: "alice"},
		"unknown role": {Name: "alice", Role: "root"},
		"bad name":     {Name: "../server/one", Role: "viewer"},
		"no name":      {Role: "viewer"},
		"long ttl":     {Name: "alice", Role: "viewer", Ttl: durationpb.New(11 * time.Minute)},
	} {
		_, err := r.admin.AddAdmin(t.Context(), req)
		if err = api.FromWire(err); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
	off := start(t, nil)
	_, err := off.admin.AddAdmin(t.Context(), &pb.AddAdminRequest{Name: "alice", Role: "viewer"})
	if err = api.FromWire(err); !fault.Is(err, fault.Conflict) || !strings.Contains(fault.HintOf(err), "admin_listen") {
		t.Errorf("without a listener: got %v (hint %q), want the key to set", err, fault.HintOf(err))
	}
}

func TestRoleCountsFromTheNextCallOn(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	alice := r.person("alice", "operator")
	if _, err := alice.Apply(t.Context(), &pb.ApplyRequest{Put: shop()}); err != nil {
		t.Fatalf("operator applies services: %v", api.FromWire(err))
	}
	if r.audit.count(audit.Changed, "service orders") == 0 || !r.audit.by("spiffe://acme.example/kith/admin/alice") {
		t.Error("the audit log does not name alice for her change")
	}
	r.role("alice", "viewer")
	_, err := alice.Apply(t.Context(), &pb.ApplyRequest{Put: shop()})
	wantDenied(t, "a viewer's change", err, "needs the role operator, and alice is viewer")
	if hint := fault.HintOf(api.FromWire(err)); hint != "an admin can change that: kith ids admins role alice operator" {
		t.Errorf("hint: got %q", hint)
	}
	if _, err := alice.Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Errorf("a viewer's status on the same connection: %v", err)
	}
}

func TestPruneNeedsTheRoleOfWhatItDeletes(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	bob := r.person("bob", "operator")
	long := &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
		Name: "users", Id: "/{node.class}/user/{workload.unix.user}", Nodes: []string{"vms"},
	}}}
	r.apply(&pb.ApplyRequest{Put: append(shop(), long), Owner: "team"})
	prune := &pb.ApplyRequest{Put: shop(), Owner: "team", Prune: true}
	_, err := bob.Apply(t.Context(), prune)
	wantDenied(t, "an operator's prune", err, "to delete identity users needs the role admin")
	r.role("bob", "admin")
	if _, err := bob.Apply(t.Context(), prune); err != nil {
		t.Errorf("an admin's prune: %v", api.FromWire(err))
	}
}

func TestRemovalCutsConnections(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	alice, mallory := r.person("alice", "admin"), r.person("mallory", "admin")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch, err := mallory.Watch(ctx, &pb.WatchRequest{Changes: true})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "mallory is connected", func() bool {
		list, err := alice.ListAdmins(t.Context(), &pb.ListAdminsRequest{})
		return err == nil && slices.ContainsFunc(list.GetAdmins(), func(a *pb.AdminInfo) bool {
			return a.GetName() == "mallory" && a.GetConnected()
		})
	})
	later, err := mallory.AddAdmin(t.Context(), &pb.AddAdminRequest{Name: "mallory2", Role: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alice.RemoveAdmin(t.Context(), &pb.RemoveAdminRequest{Name: "mallory"}); err != nil {
		t.Fatalf("RemoveAdmin: %v", api.FromWire(err))
	}
	if _, err := watch.Recv(); err == nil || ctx.Err() != nil {
		t.Errorf("the watch of a removed admin: got %v, want it cut", err)
	}
	_, err = mallory.Status(t.Context(), &pb.StatusRequest{}, grpc.WaitForReady(true))
	wantDenied(t, "a removed admin", err, "mallory is not an admin here")
	_, err = r.joinAdmin(later.GetJoin(), newKey(t))
	wantDenied(t, "a token the removed admin made", err, "refused")
	_, err = alice.RemoveAdmin(t.Context(), &pb.RemoveAdminRequest{Name: "alice"})
	if err = api.FromWire(err); !fault.Is(err, fault.Conflict) {
		t.Errorf("removing oneself: got %v, want Conflict", err)
	}
}

func TestSettingBackVoidsOpenTokens(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	r.person("bob", "admin")
	again := r.adminLine("bob", "") // in the role he has
	r.role("bob", "viewer")
	_, err := r.joinAdmin(again, newKey(t))
	wantDenied(t, "a token from before", err, "refused")
}

func TestJoiningAgainEndsTheOldKey(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	old := r.person("alice", "admin")
	fresh := r.person("alice", "viewer")
	_, err := old.Status(t.Context(), &pb.StatusRequest{}, grpc.WaitForReady(true))
	wantDenied(t, "the old key", err, "joined again with another key")
	if _, err := fresh.Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Errorf("the new key: %v", err)
	}
}

func TestAdminRenewsForItsKeyOnly(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	alice := r.person("alice", "viewer")
	before := alice.svid.Expiry()
	r.clock.add(20 * time.Minute)
	in, err := alice.RenewAdmin(t.Context(), &pb.RenewAdminRequest{Csr: csrOf(t, alice.key)})
	if err != nil {
		t.Fatal(api.FromWire(err))
	}
	alice.take(in)
	if !alice.svid.Expiry().After(before) || in.GetRole() != "viewer" {
		t.Errorf("renewed: ends %v, role %q; before %v", alice.svid.Expiry(), in.GetRole(), before)
	}
	_, err = alice.RenewAdmin(t.Context(), &pb.RenewAdminRequest{Csr: csrOf(t, newKey(t))})
	wantDenied(t, "renewal for another key", err, "another key")
	r.clock.add(3 * time.Hour) // the connection is still open: the call looks at the end
	_, err = alice.Status(t.Context(), &pb.StatusRequest{})
	if err = api.FromWire(err); err == nil || !strings.Contains(err.Error(), "admin alice ended at") {
		t.Errorf("a call by an SVID that has ended: got %v, want a refusal", err)
	}
}

func TestConnectionEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	alice := r.person("alice", "viewer")
	r.clock.add(alice.svid.Expiry().Sub(r.clock.Now()) - 2*time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	watch, err := alice.Watch(ctx, &pb.WatchRequest{Changes: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err == nil || ctx.Err() != nil {
		t.Errorf("a watch beyond the SVID's end: got %v, want it cut", err)
	}
}

func TestServerStopsWithAdminsConnected(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	watch, err := r.person("alice", "viewer").Watch(t.Context(), &pb.WatchRequest{Changes: true})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
	if _, err := watch.Recv(); err == nil {
		t.Error("a watch went on without its server")
	}
}

func TestNoTemplateReachesAdmins(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	for _, template := range []string{"/kith/admin/root", "/kith/admin/{workload.unix.user}", "/{workload.unix.user}/admin/root"} {
		object := &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{Name: "x", Id: template, Nodes: []string{"vms"}}}}
		if _, err := r.admin.Apply(t.Context(), &pb.ApplyRequest{Put: []*pb.Object{object}}); err != nil {
			continue // refused as it is written
		}
		a := r.joined("n-" + fmt.Sprint(len(template)))
		resp, err := a.node.SignWorkloads(t.Context(), &pb.SignWorkloadsRequest{Csrs: []*pb.WorkloadCSR{{
			Rule: "x", SpiffeId: "spiffe://acme.example/kith/admin/root", Csr: csrOf(t, newKey(t)),
			Attributes: map[string]string{"workload.unix.user": "kith", "workload.unix.uid": "1"},
		}}})
		if err == nil && resp.GetResults()[0].GetError() == "" {
			t.Errorf("template %s minted an admin's identity", template)
		}
	}
}

// by says whether the actor stands in the audit log.
func (r *records) by(actor string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.events, func(e audit.Event) bool { return e.Actor == actor })
}

func TestAdminsOutliveARestart(t *testing.T) {
	t.Parallel()
	r := start(t, remotely)
	alice := r.person("alice", "operator")
	r.stop()
	r.start()
	key, err := x509.MarshalPKIXPublicKey(alice.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if admin, err := r.s.Admin("alice", registry.HashOf(key)); err != nil || admin.Role != registry.RoleOperator {
		t.Errorf("after a restart: got %v, %v, want operator", admin.Role, err)
	}
}
