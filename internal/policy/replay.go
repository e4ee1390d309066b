package policy

import "github.com/kith-id/kith/spiffe"

// Flip is a flow that one table decides otherwise than another.
type Flip struct {
	Flow   Flow
	After  Decision
	Sample Request // the first of the flow's samples that flips
	// Unsure says that After hangs on a condition about what flows do not keep:
	// headers, tokens, addresses, the time.
	Unsure bool
}

// Replay asks both tables about the flows to their service and returns those
// whose effect differs for at least one sample. A nil after stands for a
// service that is no more, and denies. Where a condition decides, what was
// recorded counts for before, and for after if same says that the rule's
// condition stays; else the flip is unsure.
func Replay(before, after *Table, same func(rule string) bool, flows []Flow) []Flip {
	var out []Flip
	for _, f := range flows {
		for _, r := range f.requests() {
			if flip, ok := replay(before, after, same, f, r); ok {
				out = append(out, flip)
				break
			}
		}
	}
	return out
}

func replay(before, after *Table, same func(rule string) bool, f Flow, r Request) (Flip, bool) {
	was, will := redecide(before, f.From, r), redecide(after, f.From, r)
	flip := Flip{Flow: f, After: will, Sample: r, Unsure: conditional(will)}
	effect := was.Effect
	if conditional(was) {
		effect = f.Effect
	}
	if flip.Unsure {
		rule := conditionOf(will)
		return flip, !conditional(was) || conditionOf(was) != rule || !same(rule)
	}
	return flip, effect != will.Effect
}

// conditional is true for a decision that conditions made, or kept from being
// made.
func conditional(d Decision) bool {
	switch d.Reason {
	case CondFalse, CondError, TokenMissing, TokenInvalid:
		return true
	}
	return false
}

// conditionOf is the rule whose condition it was.
func conditionOf(d Decision) string {
	if d.Rule != "" {
		return d.Rule
	}
	return d.Near.Rule
}

// redecide decides a request of a flow. A path the service's own options do not
// leave as it is would be refused before any decision.
func redecide(t *Table, from spiffe.ID, r Request) Decision {
	if t != nil && r.Protocol.carriesRequests() && t.protocol.carriesRequests() {
		if normal, err := NormalizePath(r.Path, t.paths); err != nil || normal != r.Path {
			return t.Refuse(PathNotCanonical)
		}
	}
	peer := t.Peer(from)
	if d := t.Decide(peer, r); !conditional(d) {
		return d
	}
	return t.Explain(peer, r)
}
