package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// signJWT asks for JWT-SVIDs of orders, changed as said.
func (a *agent) signJWT(changes ...func(*pb.JWTRequest)) []*pb.SignedJWT {
	a.t.Helper()
	req := &pb.SignJWTRequest{}
	for _, change := range changes {
		r := &pb.JWTRequest{Rule: "as", SpiffeId: "spiffe://acme.example/vms/orders", Attributes: asOrders(), Audience: []string{"billing"}}
		change(r)
		req.Requests = append(req.Requests, r)
	}
	resp, err := a.node.SignJWT(a.t.Context(), req)
	if err != nil {
		a.t.Fatalf("SignJWT: %v", api.FromWire(err))
	}
	return resp.GetResults()
}

func unchanged(*pb.JWTRequest) {}

// jwtBundle is the bundle the agent was given last.
func (a *agent) jwtBundle() *spiffe.Bundle {
	a.t.Helper()
	raw := get(a, func() []*pb.Bundle { return a.bundles })
	if len(raw) != 1 {
		a.t.Fatalf("%d bundles", len(raw))
	}
	bundle, err := spiffe.ParseBundle(a.svid.ID.TrustDomain(), raw[0].GetJwks())
	if err != nil {
		a.t.Fatal(err)
	}
	return bundle
}

func (a *agent) validate(token string) (*spiffe.JWTSVID, error) {
	bundle := a.jwtBundle()
	return spiffe.ValidateJWT(token, spiffe.JWTCheck{
		Audiences: []string{"billing"}, Now: a.now(),
		Bundle: func(td spiffe.TrustDomain) (*spiffe.Bundle, bool) { return bundle, td == bundle.TrustDomain() },
	})
}

func TestJWTForWhoTheRulesSay(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	a.connect()
	a.at(r.status().GetRevision())
	results := a.signJWT(unchanged,
		func(q *pb.JWTRequest) { q.SpiffeId = "spiffe://acme.example/vms/web" },
		func(q *pb.JWTRequest) { q.SpiffeId = "spiffe://acme.example/kith/server/one" },
		func(q *pb.JWTRequest) { q.Rule = "nothing" },
		func(q *pb.JWTRequest) { q.Attributes = map[string]string{"workload.unix.uid": "0"} },
		func(q *pb.JWTRequest) { q.Attributes["workload.kith.as"] = "web" },
		func(q *pb.JWTRequest) { q.Attributes["node.class"] = "eks" },
		func(q *pb.JWTRequest) { q.Audience = nil },
		func(q *pb.JWTRequest) { q.Audience = []string{"a", "a"} },
		func(q *pb.JWTRequest) { q.Attributes["workload.x"] = strings.Repeat("x", 17<<10) },
		func(q *pb.JWTRequest) { q.SpiffeId = strings.Repeat("x", 4<<10) },
	)
	svid, err := a.validate(results[0].GetToken())
	if err != nil || svid.ID.String() != "spiffe://acme.example/vms/orders" {
		t.Fatalf("got %v, %v (%s)", svid, err, results[0].GetError())
	}
	if _, err := a.validate(results[6].GetToken()); err != nil {
		t.Errorf("a node.* attribute from the agent is not ignored: %v, %s", err, results[6].GetError())
	}
	for i, kind := range map[int]fault.Kind{
		1: fault.Conflict, 2: fault.Conflict, 3: fault.Denied, 4: fault.Denied, 5: fault.Denied,
		7: fault.Invalid, 8: fault.Invalid, 9: fault.Invalid, 10: fault.Invalid,
	} {
		if got := results[i]; got.GetToken() != "" || got.GetErrorKind() != kind.String() {
			t.Errorf("request %d: got %q, %q, want %s", i, got.GetErrorKind(), got.GetError(), kind)
		}
	}
}

func TestJWTIsInTheAuditLog(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	r.joined("n1").signJWT(unchanged)
	r.stop()
	if n := r.audit.count(audit.Issued, "/vms/orders"); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

func TestJWTBatchIsBounded(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	a := r.joined("n1")
	req := &pb.SignJWTRequest{}
	for range 129 {
		req.Requests = append(req.Requests, &pb.JWTRequest{})
	}
	if _, err := a.node.SignJWT(t.Context(), req); !fault.Is(api.FromWire(err), fault.Invalid) {
		t.Errorf("129 requests: %v", err)
	}
}

// advance writes the keys that are due at a time to the store, as any server of
// the trust domain would.
func (r *rig) advance(at time.Time) (changed bool, revision uint64) {
	r.t.Helper()
	ctx := r.t.Context()
	item, err := r.store.Get(ctx, registry.JWTRingKey)
	if err != nil {
		r.t.Fatal(err)
	}
	revision = r.status().GetRevision()
	next, err := ca.AdvanceJWTRing(item.Value, ca.JWTRingConfig{TrustDomain: r.s.TrustDomain(), KEK: r.cfg.KEK, Now: at, Revision: revision + 1})
	if err != nil {
		r.t.Fatal(err)
	}
	if !next.Changed {
		return false, revision
	}
	_, err = r.store.Commit(ctx, registry.Txn{Do: []registry.Op{
		registry.Put("meta/revision", fmt.Append(nil, revision+1)), registry.Put(registry.JWTRingKey, next.Ring),
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	return true, revision + 1
}

// A new key is with every agent before it signs, pushed like any change.
func TestJWTKeysArePushed(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	a.connect()
	a.at(r.status().GetRevision())
	before := a.jwtBundle()
	changed, revision := r.advance(r.clock.Now().Add(24 * time.Hour))
	if !changed {
		t.Fatal("nothing is due after a day")
	}
	a.at(revision)
	after := a.jwtBundle()
	if len(before.JWTKeys()) != 1 || len(after.JWTKeys()) != 2 || after.Sequence() <= before.Sequence() {
		t.Errorf("keys %d then %d, sequence %d then %d", len(before.JWTKeys()), len(after.JWTKeys()), before.Sequence(), after.Sequence())
	}
	if states := get(a, func() int { return a.states }); states != 1 {
		t.Errorf("%d whole states were sent", states)
	}
	svid, err := a.validate(a.signJWT(unchanged)[0].GetToken())
	if err != nil || svid.KeyID() != before.JWTKeys()[0].ID {
		t.Errorf("before its time: got %v, %v", svid, err)
	}
	r.apply(&pb.ApplyRequest{Put: []*pb.Object{rule("web-reads", "web", "orders", "GET /v1/{**}")}})
	a.at(revision + 1) // changes go on from there
}

// A day later, after a restart, the next key is made, and the old one serves.
func TestJWTKeysAdvanceByAge(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	revision := r.status().GetRevision()
	r.stop()
	r.clock.add(24 * time.Hour)
	r.start()
	within(t, "the next key", func() bool { return r.status().GetRevision() == revision+1 })
	if n := r.audit.count(audit.Rotated, "JWT keys"); n != 2 {
		t.Errorf("%d events of rotation, want one before and one after", n)
	}
	a := r.joined("n1")
	a.connect()
	a.at(revision + 1)
	if got := len(a.jwtBundle().JWTKeys()); got != 2 {
		t.Errorf("%d keys are published", got)
	}
	if _, err := a.validate(a.signJWT(unchanged)[0].GetToken()); err != nil {
		t.Error(err)
	}
}

// A store from before there were JWT-SVIDs gets its keys when a server starts.
func TestJWTKeysOfAnOlderStore(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	revision := r.status().GetRevision()
	r.stop()
	if _, err := r.store.Commit(t.Context(), registry.Txn{Do: []registry.Op{registry.Delete(registry.JWTRingKey)}}); err != nil {
		t.Fatal(err)
	}
	r.start()
	within(t, "the first key", func() bool { return r.status().GetRevision() == revision+1 })
	a := r.joined("n1")
	a.connect()
	a.at(revision + 1)
	if _, err := a.validate(a.signJWT(unchanged)[0].GetToken()); err != nil {
		t.Error(err)
	}
}

// With the store away tokens go on being signed.
func TestJWTWithTheStoreAway(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	a := r.joined("n1")
	a.connect()
	a.at(r.status().GetRevision())
	r.store.set(true)
	if _, err := a.validate(a.signJWT(unchanged)[0].GetToken()); err != nil {
		t.Error(err)
	}
	r.store.set(false)
}

// A key for an algorithm that is new here signs when every live node knows it:
// without an ack of one there is no token, and no token that a node cannot check.
func TestRS256KeyWaitsForEveryLiveNode(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	r.apply(&pb.ApplyRequest{Put: shop()})
	r.stop()
	r.cfg.RS256Audiences = []string{"billing"}
	r.start()
	a := r.joined("n1")
	a.mu.Lock()
	a.held = true // it takes in what comes, and says nothing
	a.mu.Unlock()
	a.connect()
	within(t, "two keys in the bundle", func() bool {
		return get(a, func() int { return len(a.bundles) }) == 1 && len(a.jwtBundle().JWTKeys()) == 2
	})
	r.clock.add(10 * time.Second) // the nodes of before are back, if they live
	if got := a.signJWT(unchanged)[0]; got.GetToken() != "" || got.GetErrorKind() == fault.Denied.String() {
		t.Errorf("before the node has acked: %d bytes of token, %s", len(got.GetToken()), got.GetErrorKind())
	}
	a.mu.Lock()
	a.held = false
	a.mu.Unlock()
	a.ack()
	var token string
	within(t, "a token for billing", func() bool {
		token = a.signJWT(unchanged)[0].GetToken()
		return token != ""
	})
	svid, err := a.validate(token)
	if err != nil || svid.Algorithm() != "RS256" {
		t.Errorf("got %v, %v, want RS256", svid, err)
	}
}
