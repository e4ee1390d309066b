package agent

import (
	"fmt"
	"strings"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/workload"
)

// errNoIdentity says what was found out about a process and which rule came
// closest.
func errNoIdentity(peer attest.Peer, as string, ev *workload.Evaluation) error {
	reason := "there are no identity rules"
	if o, ok := workload.Closest(ev.Outcomes); ok {
		reason = fmt.Sprintf("closest is rule %s: %s", o.Rule, o.Detail)
	}
	err := fault.Deniedf("no identity for process %d: %s; found: %s", peer.PID, reason, workload.Found(ev.Attributes))
	if as == "" && ev.Attributes[attrClaim] == "" {
		return fault.Hint(err, "run it under a service's name: kith run --as NAME -- ...; kith ids explain --pid %d shows every rule", peer.PID)
	}
	return fault.Hint(err, "kith ids explain --pid %d shows every rule", peer.PID)
}

func errUnknownService(name string, w *world) error {
	err := fault.NotFoundf("unknown service %q", name)
	if near := fault.Nearest(name, w.policy.ServiceNames()); near != "" {
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
