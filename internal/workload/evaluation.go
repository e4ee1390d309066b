package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/kith-id/kith/internal/registry"
)

// maxEvaluations bounds what is remembered of workloads that are all different.
const maxEvaluations = 512

// Evaluation is who a workload is, and why; immutable.
type Evaluation struct {
	// Attributes is what was found out, workload.* only.
	Attributes registry.Attributes
	// Matches are the identities, the default one first.
	Matches []registry.Match
	// Outcomes explain every rule.
	Outcomes []registry.Outcome

	digest string // of the attributes
}

// NewEvaluation is an evaluation of the workload.* part of attributes.
func NewEvaluation(attrs registry.Attributes, matches []registry.Match, outcomes []registry.Outcome) *Evaluation {
	attrs = attrs.Workload()
	return &Evaluation{Attributes: attrs, Matches: matches, Outcomes: outcomes, digest: attributesDigest(attrs)}
}

func attributesDigest(attrs registry.Attributes) string {
	sum := sha256.Sum256(attrs.Text())
	return hex.EncodeToString(sum[:])
}

// Evaluations remembers what identity rules have said of workloads, which are
// mostly alike: one program, many processes and connections. It belongs to one
// set of rules and goes with it. The zero value is ready.
type Evaluations struct {
	mu  sync.Mutex
	all map[string]*Evaluation // by digest; guarded by mu
}

// Of is the evaluation of attributes, workload.* all of them, made by rules if it is not known.
func (e *Evaluations) Of(attrs registry.Attributes, rules func(registry.Attributes) ([]registry.Match, []registry.Outcome)) *Evaluation {
	digest := attributesDigest(attrs)
	e.mu.Lock()
	known, ok := e.all[digest]
	e.mu.Unlock()
	if ok {
		return known
	}
	attrs = attrs.Workload() // the caller's may be another's
	matches, outcomes := rules(attrs)
	made := &Evaluation{Attributes: attrs, Matches: matches, Outcomes: outcomes, digest: digest}
	e.mu.Lock()
	defer e.mu.Unlock()
	if known, ok := e.all[digest]; ok { // somebody was faster
		return known
	}
	if e.all == nil || len(e.all) >= maxEvaluations {
		e.all = make(map[string]*Evaluation)
	}
	e.all[digest] = made
	return made
}

// maxFound bounds what a line of a log says of a process.
const maxFound = 1 << 10

// Found is what is known of a workload, in one line.
func Found(attrs registry.Attributes) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		short, of := strings.CutPrefix(name, "workload.")
		if value := attrs[name]; of && value != "" && short != "unix.pid" {
			fmt.Fprintf(&b, " %s=%s", short, value)
		}
	}
	text := strings.TrimPrefix(b.String(), " ")
	if len(text) > maxFound {
		return strings.ToValidUTF8(text[:maxFound], "") + "…"
	}
	return text
}

// Closest is the outcome of the rule that came nearest to matching, and false
// when there was none: a rule whose requirement is false is nearer than one
// that misses an attribute, and one for other nodes is the farthest.
func Closest(outcomes []registry.Outcome) (registry.Outcome, bool) {
	rank := func(o registry.Outcome) int {
		switch {
		case strings.HasPrefix(o.Detail, "not for nodes"):
			return 1
		case o.Result == registry.Missing:
			return 2
		case o.Result == registry.Unmatched:
			return 3
		case o.Result == registry.Failed:
			return 4
		default:
			return 5
		}
	}
	var best registry.Outcome
	found := 0
	for _, o := range outcomes {
		if r := rank(o); r > found {
			best, found = o, r
		}
	}
	return best, found > 0
}
