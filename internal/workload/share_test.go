package workload

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/pb/workloadpb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// count is how many leases and held entries there are.
func (m *Identities) count() (leases, held int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.leases), m.held
}

// eventually waits for what other goroutines are about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("%s: still not", what)
		}
	}
}

func TestStreamsAlikeShareOneAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := start(t, w, 0)
	ev, err := w.Evaluate(t.Context(), attest.Peer{})
	if err != nil {
		t.Fatal(err)
	}
	mine := e.identities.Acquire(ev)
	wait(t, mine)
	service := NewService(ServiceConfig{Host: w, Identities: e.identities})
	first, _ := service.answer(mine)
	other, _ := service.answer(e.identities.Acquire(ev))
	if first != other || first.err != nil {
		t.Fatalf("two streams of one evaluation: answers %p and %p, %v", first, other, first.err)
	}
	if leases, held := e.identities.count(); leases != 1 || held != 1 {
		t.Errorf("%d leases on %d SVIDs, want one on one", leases, held)
	}
	e.identities.Renew()
	eventually(t, "another answer after a renewal", func() bool { a, _ := service.answer(mine); return a != first })
	before, _ := service.answer(mine)
	own := w.Trust().Domain
	w.set(func() { w.bundles = spiffe.BundleMap{own: w.bundles[own]} })
	after, _ := service.answer(mine)
	if bytes.Equal(before.message, after.message) {
		t.Error("a bundle that has gone is still in the answer")
	}
	mine.Release()
	if leases, _ := e.identities.count(); leases != 1 {
		t.Error("the lease went with the first of its two holders")
	}
	mine.Release()
	if leases, held := e.identities.count(); leases != 0 || held != 0 {
		t.Errorf("%d leases on %d SVIDs after the last release, want none", leases, held)
	}
}

// What is sent encoded is what protobuf would have sent.
func TestEncodedMessagesGoOutAsTheyAre(t *testing.T) {
	t.Parallel()
	c := codec{encoding.GetCodecV2(protocodec.Name)}
	message := &workloadpb.X509SVIDResponse{Svids: []*workloadpb.X509SVID{{SpiffeId: "spiffe://acme.example/vms/web", X509Svid: []byte{1, 2, 3}}}}
	wire, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{"message": message, "encoded": encoded(wire)} {
		out, err := c.Marshal(v)
		if err != nil || !bytes.Equal(out.Materialize(), wire) {
			t.Errorf("%s: got %x, %v, want %x", name, out.Materialize(), err, wire)
		}
	}
	if _, err := c.Marshal([]byte(wire)); err == nil {
		t.Error("bytes of no known meaning were sent")
	}
}

func TestEqualAttributesAreEvaluatedOnce(t *testing.T) {
	t.Parallel()
	var known Evaluations
	asked := 0
	of := func(uid int) *Evaluation {
		return known.Of(registry.Attributes{"workload.unix.uid": fmt.Sprint(uid)}, func(attrs registry.Attributes) ([]registry.Match, []registry.Outcome) {
			asked++
			return []registry.Match{{Rule: attrs["workload.unix.uid"]}}, nil
		})
	}
	a, b := of(1), of(1)
	if a != b || asked != 1 || of(2).Matches[0].Rule != "2" {
		t.Errorf("evaluated %d times: %v, %v", asked, a, b)
	}
	for i := range 3 * maxEvaluations {
		of(i)
	}
	if n := len(known.all); n > maxEvaluations {
		t.Errorf("%d evaluations are remembered, at most %d may be", n, maxEvaluations)
	}
}

// A client that does not read holds up a hand, and nobody else.
func TestBlockedWorkHoldsUpNobody(t *testing.T) {
	t.Parallel()
	h := newHands()
	block, blocked := make(chan struct{}), make(chan error)
	go func() { blocked <- h.do(func() error { <-block; return nil }) }()
	for i := range 100 {
		want := fmt.Errorf("work %d", i)
		if err := h.do(func() error { return want }); err != want {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	close(block)
	if err := <-blocked; err != nil {
		t.Error(err)
	}
}

// SVIDs that nobody holds any more are bounded.
func TestIdleSVIDsAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ids := NewIdentities(Config{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	for i := range maxIdle + 100 {
		l := ids.Acquire(workloadNumber(i))
		ids.mu.Lock()
		l.entries[0].issued = &Issued{NotAfter: time.Now().Add(time.Hour)}
		ids.mu.Unlock()
		l.Release()
	}
	if n := len(ids.entries); n != maxIdle {
		t.Errorf("%d SVIDs are kept, want %d", n, maxIdle)
	}
}
