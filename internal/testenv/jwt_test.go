package testenv_test

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/testenv"
)

// A program fetches a JWT-SVID and has one validated, by the real agent and
// server.
func TestJWTSVID(t *testing.T) {
	t.Parallel()
	d := testenv.Start(t)
	w := d.Workload(t, "web")
	svid, err := w.JWTSVID(t.Context(), "orders", "billing")
	if err != nil || svid.ID != w.ID() || strings.Join(svid.Audience, " ") != "billing orders" {
		t.Fatalf("got %v for %v, %v", svid, svid.Audience, err)
	}
	if again, err := w.JWTSVID(t.Context(), "billing", "orders"); err != nil || again.Token() != svid.Token() {
		t.Errorf("the second time: %v, %v, want the same token", again, err)
	}
	if got, err := w.ValidateJWT(t.Context(), svid.Token(), "orders"); err != nil || got.ID != svid.ID {
		t.Errorf("validate: got %v, %v", got, err)
	}
	for name, c := range map[string][2]string{
		"of somebody else": {svid.Token(), "web"}, "changed": {svid.Token() + "A", "orders"}, "nothing": {"", "orders"},
	} {
		if got, err := w.ValidateJWT(t.Context(), c[0], c[1]); got != nil || !fault.Is(err, fault.Invalid) {
			t.Errorf("validate a token %s: got %v, %v", name, got, err)
		}
	}
	if _, err := w.JWTSVID(t.Context()); !fault.Is(err, fault.Invalid) {
		t.Errorf("without an audience: %v", err)
	}
}
