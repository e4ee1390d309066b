//go:build chaos

package chaos

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// TestChaosFindsSeededBugs runs the harness against programs that are wrong on
// purpose. A harness that does not see what it looks for proves nothing.
func TestChaosFindsSeededBugs(t *testing.T) {
	for _, bug := range []struct {
		fault string
		draw  func(*rand.Rand) fault
		sees  string
	}{
		{"ack-before-commit", killServer, "was acknowledged"},
		{"stale-policy", restartOne, "which no rule allowed then any more"},
	} {
		t.Run(bug.fault, func(t *testing.T) {
			s := newStage(t, options{env: []string{"KITH_TEST_FAULT=" + bug.fault}, rate: 20, held: 2, writers: 4})
			r := s.torment(rand.New(rand.NewPCG(1, 0)), bug.draw, 2*time.Minute)
			got := s.referee.verdict()
			if !strings.Contains(got, bug.sees) {
				t.Errorf("after %d faults the referee says %q; want it to have seen %q", len(r.times), got, bug.sees)
			}
			t.Logf("seen after %d faults", len(r.times))
		})
	}
}

// TestReleaseHasNoSeededBugs: neither faults nor clocks of the test build are in
// what users get.
func TestReleaseHasNoSeededBugs(t *testing.T) {
	path, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(binary, []byte("KITH_TEST_")); i >= 0 {
		t.Errorf("%s holds %q", path, binary[i:i+30])
	}
}
