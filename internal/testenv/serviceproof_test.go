package testenv_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// says makes the service orders say something of proofs.
func (b *balanced) says(t *testing.T, proof *pb.ServiceProof) {
	t.Helper()
	orders := &pb.Service{Name: "orders", Identities: []string{"/dev/orders"}, Protocol: "http", Proof: proof, Owner: "cli"}
	result, err := b.Server.Apply(t.Context(), api.Actor{Name: "test", Role: registry.RoleAdmin}, &pb.ApplyRequest{
		Owner: "cli", Put: []*pb.Object{{Kind: &pb.Object_Service{Service: orders}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the revision", func() bool { return b.orders.Revision() >= result.GetRevision() })
}

// until waits for what the agent brings.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); !is(); {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %s", what)
		}
	}
}

// What a service says of proofs holds at a receiver that is configured otherwise, at
// once: its kinds narrow, and a contradiction lets nobody in.
func TestServiceSaysWhichProofsCount(t *testing.T) {
	t.Parallel()
	b := newBalanced(t) // configured with ordersName and either kind
	b.allow(t, "self", "GET /")
	by := map[kith.ProofKind]http.RoundTripper{}
	for _, kind := range []kith.ProofKind{kith.ProofSignature, kith.ProofToken} {
		transport, err := b.orders.SigningTransport(b.lb.Client().Transport, ordersName, kind)
		if err != nil {
			t.Fatal(err)
		}
		by[kind] = transport
	}
	status := func(kind kith.ProofKind) int {
		code, _ := b.call(t, by[kind], http.MethodGet, "/", "")
		return code
	}
	if s, p := status(kith.ProofSignature), status(kith.ProofToken); s != http.StatusOK || p != http.StatusOK {
		t.Fatalf("before: %d and %d", s, p)
	}
	b.says(t, &pb.ServiceProof{Audience: ordersName, Accept: "signature"})
	if s, p := status(kith.ProofSignature), status(kith.ProofToken); s != http.StatusOK || p != http.StatusBadRequest {
		t.Errorf("signatures alone: %d and %d", s, p)
	}
	if _, err := b.orders.ProofHandler(http.NotFoundHandler(), 1, kith.ProofConfig{}); err != nil {
		t.Errorf("without an audience of its own: %v", err)
	}
	for what, cfg := range map[string]kith.ProofConfig{
		"another audience": {Audience: "https://other"}, "another kind": {Accept: []kith.ProofKind{kith.ProofToken}},
	} {
		if _, err := b.orders.ProofHandler(http.NotFoundHandler(), 1, cfg); fault.KindOf(err) != fault.Conflict {
			t.Errorf("%s: %v", what, err)
		}
	}
	b.says(t, &pb.ServiceProof{Audience: "https://elsewhere"})
	if s, p := status(kith.ProofSignature), status(kith.ProofToken); s != http.StatusBadRequest || p != http.StatusBadRequest {
		t.Errorf("the service has another audience: %d and %d", s, p)
	}
	b.says(t, nil)
	if s := status(kith.ProofSignature); s != http.StatusOK {
		t.Errorf("after all is taken back: %d", s)
	}
	if _, err := b.orders.ProofHandler(http.NotFoundHandler(), 1, kith.ProofConfig{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no audience anywhere: %v", err)
	}
}

// Callers learn from the directory through which load balancer a service is called.
func TestServiceSaysWhereItIsCalled(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.allow(t, "self", "GET /")
	b.says(t, &pb.ServiceProof{Audience: ordersName, Accept: "wpt", Via: "https://lb.acme.example"})
	want := kith.Balanced{Via: "https://lb.acme.example", Audience: ordersName, Proof: kith.ProofToken, Only: true}
	until(t, "balancer in the directory", func() bool {
		got, ok := b.orders.Balanced("Orders")
		return ok && got == want
	})
	_, err := b.Server.Apply(t.Context(), api.Actor{Name: "test", Role: registry.RoleAdmin}, &pb.ApplyRequest{Owner: "cli", Put: []*pb.Object{{Kind: &pb.Object_Service{
		Service: &pb.Service{Name: "db", Identities: []string{"/dev/db"}, Protocol: "tcp", Owner: "cli", Proof: &pb.ServiceProof{Audience: "x"}},
	}}}})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "services.db.proof: a tcp service") {
		t.Errorf("a tcp service: %v", err)
	}
}
