package testenv_test

import (
	"testing"

	"github.com/kith-id/kith/internal/testenv"
)

// A program gets a WIT-SVID with its key, and the keys to verify others' with, by
// the real agent and server.
func TestWITSVID(t *testing.T) {
	t.Parallel()
	d := testenv.Start(t)
	w := d.Workload(t, "web")
	svid, err := w.WITSVID(t.Context())
	if err != nil || svid.ID != w.ID() {
		t.Fatalf("got %v, %v", svid, err)
	}
	proof, err := svid.Prove([]byte("x"))
	if err != nil || svid.VerifyProof([]byte("x"), proof) != nil {
		t.Errorf("it proves nothing: %v", err)
	}
	if again, err := w.WITSVID(t.Context()); err != nil || again != svid {
		t.Errorf("the second time: %v, %v, want the same", again, err)
	}
}
