package testenv

import (
	"testing"

	"github.com/kith-id/kith/internal/pb"
)

// TestStart brings two trust domains up at once and takes an identity in one.
func TestStart(t *testing.T) {
	t.Parallel()
	first, second := Start(t), Start(t)
	for _, d := range []*Domain{first, second} {
		status, err := d.Admin(t).Status(t.Context(), &pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if got := status.GetNodesConnected(); got != 1 {
			t.Errorf("nodes connected: got %d, want 1", got)
		}
	}
	w := first.Workload(t, "web")
	if got, want := w.ID().String(), "spiffe://"+Name+"/"+Node+"/web"; got != want {
		t.Errorf("identity: got %s, want %s", got, want)
	}
}
