package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/workload"
)

// errNoIdentity says what was found out about a process and which rule came
// closest.
func errNoIdentity(peer attest.Peer, as string, ev workload.Evaluation) error {
	reason := "there are no identity rules"
	if o, ok := workload.Closest(ev.Outcomes); ok {
		reason = fmt.Sprintf("closest is rule %s: %s", o.Rule, o.Detail)
	}
	err := fault.Deniedf("no identity for process %d: %s", peer.PID, reason)
	if as == "" && ev.Attributes[attrClaim] == "" {
		return fault.Hint(err, "run it under a service's name: kith run --as NAME -- ...; kith ids explain --pid %d shows every rule", peer.PID)
	}
	return fault.Hint(err, "kith ids explain --pid %d shows every rule", peer.PID)
}

func errUnknownService(name string, w *world) error {
	err := fault.NotFoundf("unknown service %q", name)
	if near := nearest(name, slices.Sorted(maps.Keys(w.policy.Services))); near != "" {
		return fault.Hint(err, "did you mean %s? kith services lists them all", near)
	}
	return fault.Hint(err, "kith services lists them; kith apply -f declares a new one")
}

func listOf(names []string) string {
	if len(names) == 0 {
		return "empty"
	}
	return strings.Join(names, ", ")
}

// nearest is the candidate that was probably meant: within a third of the
// name's length in edits.
func nearest(name string, candidates []string) string {
	best, limit := "", 1+len(name)/3
	for _, c := range candidates {
		if d := edits(name, c); d <= limit && (best == "" || d < edits(name, best)) {
			best = c
		}
	}
	return best
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, cost)
		}
	}
	return row[len(b)]
}
