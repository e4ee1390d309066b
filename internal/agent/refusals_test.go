package agent

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

// A crowd that is refused does not fill the log, and the log does not pass over how
// large it is.
func TestRefusedCallersAreCountedAndSomeAreLogged(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	r := newRefusals(slog.New(slog.NewTextHandler(&out, nil)))
	for range 100 {
		r.add(fault.Hint(fault.Deniedf("not visible"), "hostPID"))
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if r.count.Load() != 100 || len(lines) != 3 {
		t.Errorf("%d counted of 100, %d lines, want 3", r.count.Load(), len(lines))
	}
	if want := `msg="caller refused" error="not visible" hint=hostPID refused=3`; !strings.HasSuffix(lines[len(lines)-1], want) {
		t.Errorf("the last line is %s, want %s", lines[len(lines)-1], want)
	}
}
