package testenv_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/testenv"
	"github.com/kith-id/kith/spiffe"
)

// brokered is a trust domain in which this process is a broker for /dev/orders and
// for nothing else; orders and vault are processes of two workloads.
type brokered struct {
	*testenv.Domain
	socket        string
	orders, vault *exec.Cmd
	self          *kith.Workload
}

func startBrokered(t *testing.T) *brokered {
	t.Helper()
	dir := t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err == nil {
		sleep, err = filepath.EvalSymlinks(sleep)
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for _, name := range []string{"orders", "vault"} {
		programs[name] = filepath.Join(dir, name)
		if err := os.WriteFile(programs[name], text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if programs["mesh"], err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	b := &brokered{socket: filepath.Join(dir, "b", "broker.sock")}
	b.Domain = testenv.StartWith(t, func(cfg *agent.Config) {
		cfg.Broker = agent.Broker{Socket: b.socket, Group: -1, Allow: []agent.BrokerGrant{{ID: "/dev/mesh", For: []string{"/dev/orders", "/dev/second"}}}}
	})
	b.apply(t, &pb.ApplyRequest{Put: []*pb.Object{
		identityOf("/dev/mesh", programs["mesh"]), identityOf("/dev/orders", programs["orders"]), identityOf("/dev/vault", programs["vault"]),
	}})
	b.orders, b.vault = running(t, programs["orders"], "600"), running(t, programs["vault"], "600")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if b.self, err = kith.Open(ctx, kith.Config{Socket: b.AgentSocket, Calls: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.self.Close() })
	return b
}

func (b *brokered) apply(t *testing.T, request *pb.ApplyRequest) {
	t.Helper()
	if _, err := b.Server.Apply(t.Context(), api.Actor{Name: "test", Role: registry.RoleAdmin}, request); err != nil {
		t.Fatal(err)
	}
}

// client is one of the endpoint at a URI, or of the environment's.
func (b *brokered) client(t *testing.T, cfg kith.BrokerConfig) *kith.Broker {
	t.Helper()
	client, err := b.self.Broker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func processOf(t *testing.T, cmd *exec.Cmd) spiffe.Reference {
	t.Helper()
	ref, err := spiffe.ProcessReference(int64(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// Rules 99, 100, 101 and 104: the SDK finds the agent's endpoint by SPIFFE_BROKER_SOCKET,
// proves itself by its own SVID, expects this node's agent, and gets both profiles.
func TestRule101ClientOfTheBrokerEndpoint(t *testing.T) {
	b := startBrokered(t)
	t.Setenv("SPIFFE_BROKER_SOCKET", "unix://"+b.socket)
	t.Setenv("https_proxy", "http://127.0.0.1:1") // of kith run: not for this
	client, ref := b.client(t, kith.BrokerConfig{}), processOf(t, b.orders)
	if want := "spiffe://" + testenv.Name + "/kith/node/" + testenv.Node; client.Expects().String() != want {
		t.Errorf("expects %s, want %s", client.Expects(), want)
	}
	const own = "spiffe://" + testenv.Name + "/dev/orders"
	source, err := client.Follow(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	svid, err := source.X509SVID()
	if err != nil || svid.ID.String() != own || len(source.X509SVIDs()) != 1 {
		t.Fatalf("got %v, %v", svid, err)
	}
	if id, err := spiffe.Verify(svid.Certificates, source.Bundle, time.Now()); err != nil || id != svid.ID {
		t.Errorf("verified: %v, %v", id, err)
	}
	tokens, err := client.JWTSVIDs(t.Context(), ref, spiffe.ID{}, "billing", "audit")
	if err != nil || len(tokens) != 1 || tokens[0].ID.String() != own {
		t.Fatalf("got %v, %v", tokens, err)
	}
	if _, err := client.JWTSVIDs(t.Context(), ref, b.self.ID(), "billing"); fault.KindOf(err) != fault.Denied {
		t.Errorf("a token of somebody else: %v", err)
	}
	roots, err := client.X509Bundles(t.Context(), ref)
	if err != nil || len(roots[svid.ID.TrustDomain()].Roots()) == 0 {
		t.Errorf("X.509 bundles: %v, %v", roots, err)
	}
	keys, err := client.JWTBundles(t.Context(), ref)
	if err != nil || keys[svid.ID.TrustDomain()] == nil {
		t.Fatalf("JWT bundles: %v, %v", keys, err)
	}
	if _, err := spiffe.ValidateJWT(tokens[0].Token(), spiffe.JWTCheck{Audiences: []string{"billing"}, Bundle: keys.Bundle, Now: time.Now()}); err != nil {
		t.Errorf("the token by the bundle: %v", err)
	}
}

// Rule 99: an endpoint that is not the expected one gets no question, and is not
// asked again.
func TestRule99ClientRefusesAnotherEndpoint(t *testing.T) {
	t.Parallel()
	b := startBrokered(t)
	other, err := spiffe.NewID(b.TrustDomain, "/kith/node/another")
	if err != nil {
		t.Fatal(err)
	}
	client := b.client(t, kith.BrokerConfig{Endpoint: "unix://" + b.socket, Expect: other, Wait: time.Hour})
	_, err = client.Follow(t.Context(), processOf(t, b.orders))
	if fault.KindOf(err) != fault.Denied || !strings.Contains(fmt.Sprint(err), "and "+other.String()+" is expected") {
		t.Errorf("follow: %v", err)
	}
	if _, err = client.X509Bundles(t.Context(), processOf(t, b.orders)); fault.KindOf(err) != fault.Denied {
		t.Errorf("bundles: %v", err)
	}
}

// Rules 102 and 109: each refusal of the agent's has its kind, and says what to do;
// none of them is asked again.
func TestRule109RefusalsHaveKindsAndHints(t *testing.T) {
	t.Parallel()
	b := startBrokered(t)
	client := b.client(t, kith.BrokerConfig{Endpoint: "unix://" + b.socket, Wait: time.Hour})
	nobody, err := spiffe.ProcessReference(1<<31 - 1)
	if err != nil {
		t.Fatal(err)
	}
	object, err := spiffe.ObjectReference(spiffe.KubernetesObject{Plural: "pods", Group: "core", Namespace: "shop", Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	for what, tc := range map[string]struct {
		ref  spiffe.Reference
		kind fault.Kind
		hint string
	}{
		"not entitled": {processOf(t, b.vault), fault.Denied, fmt.Sprintf("kith ids explain --pid %d", b.vault.Process.Pid)},
		"gone":         {nobody, fault.NotFound, "ps -p 2147483647"},
		"no cluster":   {object, fault.Invalid, "--pid"},
		"nobody":       {spiffe.Reference{}, fault.Invalid, ""},
	} {
		_, err := client.Follow(t.Context(), tc.ref)
		if fault.KindOf(err) != tc.kind || !strings.Contains(kith.Hint(err), tc.hint) {
			t.Errorf("%s: got %v (%v), hint %q", what, err, fault.KindOf(err), kith.Hint(err))
		}
		if _, err = client.JWTBundles(t.Context(), tc.ref); fault.KindOf(err) != tc.kind {
			t.Errorf("%s, bundles: got %v", what, err)
		}
		if _, err = client.JWTSVIDs(t.Context(), tc.ref, spiffe.ID{}, "a"); fault.KindOf(err) != tc.kind {
			t.Errorf("%s, tokens: got %v", what, err)
		}
	}
}

// Rule 110: a source follows what changes, each workload by itself; and of one that
// has ended, nothing is kept.
func TestRule110SourcesEndWithTheirWorkload(t *testing.T) {
	t.Parallel()
	b := startBrokered(t)
	client := b.client(t, kith.BrokerConfig{Endpoint: "unix://" + b.socket})
	source, err := client.Follow(t.Context(), processOf(t, b.orders))
	if err != nil {
		t.Fatal(err)
	}
	changed := source.Renewed()
	b.apply(t, &pb.ApplyRequest{Put: []*pb.Object{{Kind: &pb.Object_IdentityRule{IdentityRule: &pb.IdentityRule{
		Name: "second", Nodes: []string{testenv.Node}, Id: "/dev/second", Require: fmt.Sprintf("workload.unix.path == %q && workload.unix.uid == %d", b.orders.Path, os.Getuid()),
	}}}}})
	for len(source.X509SVIDs()) != 2 {
		await(t, changed, "the second identity")
		changed = source.Renewed()
	}
	if err := b.orders.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, source.Done(), "the end")
	if fault.KindOf(source.Err()) != fault.NotFound {
		t.Errorf("ended by %v", source.Err())
	}
	_, held := source.Bundle(b.TrustDomain)
	if svid, err := source.X509SVID(); fault.KindOf(err) != fault.NotFound || svid != nil || held || source.X509SVIDs() != nil || source.ID() != (spiffe.ID{}) {
		t.Errorf("after the end: %v, %v, bundle %v", svid, err, held)
	}
}

func await(t *testing.T, event <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-event:
	case <-time.After(time.Minute):
		t.Fatalf("no %s", what)
	}
}
