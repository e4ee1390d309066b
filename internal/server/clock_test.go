package server_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// Bar 16: a token that had expired is not good again because the clock of the
// running server was set back.
func TestClockSetBackBringsNoTokenBack(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	added, err := r.admin.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n1", Class: "vms", Ttl: durationpb.New(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []time.Duration{2 * time.Minute, -119 * time.Second} {
		r.clock.add(step)
		if _, err := r.attestBy(added.GetJoin(), attest.JoinToken, newKey(t), byToken(t)); !fault.Is(err, fault.Denied) {
			t.Errorf("after a step of %s: %v, want a refusal", step, err)
		}
	}
	if n := r.audit.succeeded(audit.Admitted, "node n1"); n != 0 {
		t.Errorf("%d admissions by an expired token", n)
	}
}
