package policy

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kith-id/kith/spiffe"
)

// SuggestOptions bounds how far a suggestion may go beyond what was seen.
type SuggestOptions struct {
	// Vary is from how many different values on, in one place of paths that are
	// alike otherwise, {any} stands for the place; 0 keeps each value.
	Vary int
	// Name gives a caller its name in rules, which must stand for no other ID; nil
	// for the SPIFFE ID.
	Name func(spiffe.ID) string
	// Condition is what a rule has under when, and false if there is no such rule
	// any more. Nil if no rule has a condition.
	Condition func(rule string) (string, bool)
}

// Suggestion is a rule that allows what was seen, with the evidence for it.
type Suggestion struct {
	Rule     Rule
	Evidence []Evidence // one for each action of the rule, in its order
}

// Evidence is why an action was suggested.
type Evidence struct {
	Action  string
	Calls   uint64
	Last    int64    // unix seconds
	Samples []string // paths, in normal form
	// Wider says in words where the action allows more than was seen; empty if
	// it does not.
	Wider []string
}

// Suggest proposes the narrowest rules that allow the flows, one for each
// caller, service and condition: what was allowed under a condition is suggested
// under it. An action is never wider than its template, whose {id} segments were
// numbers or random names, and than what Vary merges; the evidence says which.
// Flows of anonymous peers are left out: nothing is ever suggested to them.
func Suggest(flows []Flow, opt SuggestOptions) []Suggestion {
	type pair struct {
		from     spiffe.ID
		to, when string
	}
	byPair := make(map[pair][]Flow)
	for _, f := range flows {
		if !f.From.IsZero() {
			when, _ := opt.condition(f)
			at := pair{f.From, f.To, when}
			byPair[at] = append(byPair[at], f)
		}
	}
	pairs := slices.SortedFunc(maps.Keys(byPair), func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(a.from.String(), b.from.String()), cmp.Compare(a.when, b.when))
	})
	var out []Suggestion
	taken := make(map[string]bool)
	for _, at := range pairs {
		if s, ok := suggest(at.from, at.to, byPair[at], opt); ok {
			s.Rule.When = at.when
			s.Rule.Name = freeName(s.Rule.Name, taken)
			out = append(out, s)
		}
	}
	return out
}

// condition is that of the rule that allowed a flow; false if the rule is gone, so
// that nobody knows. What was denied, or let pass by observing, has none.
func (o SuggestOptions) condition(f Flow) (string, bool) {
	if o.Condition == nil || f.Effect != Allow || f.Reason != AllowRule {
		return "", true
	}
	return o.Condition(f.Rule)
}

// freeName numbers a name that is taken.
func freeName(name string, taken map[string]bool) string {
	free := name
	for n := 2; taken[free]; n++ {
		free = fmt.Sprintf("%s-%d", name, n)
	}
	taken[free] = true
	return free
}

func suggest(from spiffe.ID, to string, flows []Flow, opt SuggestOptions) (Suggestion, bool) {
	seen := seenOf(flows, opt)
	if opt.Vary > 0 {
		seen = vary(seen, opt.Vary)
	}
	s := Suggestion{Rule: Rule{From: []string{callerName(from, opt)}, To: to}}
	s.Rule.Name = ruleName(s.Rule.From[0], to)
	for _, group := range joinMethods(seen) {
		action, err := ParseAction(group.action())
		if err != nil {
			continue // a path no rule can say: it stays denied, and that is narrower
		}
		s.Rule.Allow = append(s.Rule.Allow, action.String())
		s.Evidence = append(s.Evidence, Evidence{
			Action: action.String(), Calls: group.calls, Last: group.last, Samples: group.samples, Wider: group.wider(),
		})
	}
	return s, len(s.Rule.Allow) > 0
}

func callerName(from spiffe.ID, opt SuggestOptions) string {
	if opt.Name != nil {
		return opt.Name(from)
	}
	return from.String()
}

// ruleName makes a name out of what a rule is about.
func ruleName(from, to string) string {
	_, after, ok := strings.Cut(from, "://")
	if ok {
		from = after
	}
	keep := func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '-':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}
	name := strings.Trim(strings.Map(keep, from), "-") + "-to-" + to
	if ValidateName(name) != nil {
		return "seen-" + to
	}
	return name
}

// use is one action as it was seen, before methods are joined.
type use struct {
	protocol Protocol
	methods  []string
	parts    []string // segments of the template, as rules write them
	port     uint16
	calls    uint64
	last     int64
	samples  []string
	merged   map[int]int // place -> how many different values stood there
	gone     []string    // rules that allowed it and are no more
}

func seenOf(flows []Flow, opt SuggestOptions) []use {
	byKey := make(map[string]*use)
	for _, f := range flows {
		key := fmt.Sprintf("%d\x00%s\x00%s\x00%d", f.Protocol, f.Method, f.Template, f.Port)
		u := byKey[key]
		if u == nil {
			u = &use{protocol: f.Protocol, methods: []string{f.Method}, port: f.Port}
			if f.Protocol.carriesRequests() {
				u.parts = strings.Split(strings.TrimPrefix(f.Template, "/"), "/")
			}
			byKey[key] = u
		}
		u.take(use{calls: f.Count, last: f.Last, samples: f.Samples})
		if _, known := opt.condition(f); !known && !slices.Contains(u.gone, f.Rule) {
			u.gone = append(u.gone, f.Rule)
		}
	}
	out := make([]use, 0, len(byKey))
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		out = append(out, *byKey[key])
	}
	return out
}

// take adds what is known of another use to u.
func (u *use) take(other use) {
	u.calls += other.calls
	u.last = max(u.last, other.last)
	for _, s := range other.samples {
		if len(u.samples) < MaxSamples && !slices.Contains(u.samples, s) {
			u.samples = append(u.samples, s)
		}
	}
	for _, rule := range other.gone {
		if !slices.Contains(u.gone, rule) {
			u.gone = append(slices.Clip(u.gone), rule)
		}
	}
}

// vary merges uses that differ in one place only, where at least so many
// different values stand there, place by place from the right: what varies in
// an API stands at the end more often.
func vary(seen []use, least int) []use {
	for place := maxSegments - 1; place >= 0; place-- {
		groups := make(map[string][]int)
		for i, u := range seen {
			if u.protocol == HTTP && place < len(u.parts) && u.parts[place] != anyPart && u.parts[place] != "{id}" {
				groups[u.alike(place)] = append(groups[u.alike(place)], i)
			}
		}
		var gone []int
		for _, key := range slices.Sorted(maps.Keys(groups)) {
			members := groups[key]
			if len(members) < least || place == 0 && len(seen[members[0]].parts) == 1 {
				continue // "/{any}" would be a guess about the whole service
			}
			into := seen[members[0]]
			into.parts = slices.Clone(into.parts)
			into.parts[place] = anyPart
			into.merged = maps.Clone(into.merged)
			if into.merged == nil {
				into.merged = make(map[int]int)
			}
			into.merged[place] = len(members)
			for _, i := range members[1:] {
				into.take(seen[i])
			}
			seen[members[0]] = into
			gone = append(gone, members[1:]...)
		}
		slices.Sort(gone)
		for _, i := range slices.Backward(gone) {
			seen = slices.Delete(seen, i, i+1)
		}
	}
	return seen
}

const anyPart = "{any}"

// alike is what must be equal of two uses to differ at place only.
func (u use) alike(place int) string {
	parts := slices.Clone(u.parts)
	parts[place] = "\x00"
	return strings.Join(u.methods, ",") + " " + strings.Join(parts, "/")
}

// joinMethods puts methods with the same path into one action.
func joinMethods(seen []use) []use {
	var out []use
	at := make(map[string]int)
	for _, u := range seen {
		key := fmt.Sprintf("%d\x00%s\x00%d", u.protocol, strings.Join(u.parts, "/"), u.port)
		i, known := at[key]
		if !known || u.protocol != HTTP || len(out[i].methods) >= maxActionMethods {
			at[key] = len(out)
			out = append(out, u)
			continue
		}
		if !slices.Contains(out[i].methods, u.methods[0]) {
			out[i].methods = append(slices.Clone(out[i].methods), u.methods[0])
		}
		out[i].take(u)
	}
	return out
}

// action is the use in the words of a rule.
func (u use) action() string {
	switch u.protocol {
	case TCP:
		if u.port == 0 {
			return "tcp"
		}
		return fmt.Sprintf("tcp %d", u.port)
	case GRPC:
		return "grpc " + strings.Join(u.parts, "/")
	default:
		return strings.Join(u.methods, ",") + " /" + strings.Join(u.parts, "/")
	}
}

// wider says where the action goes beyond what was seen.
func (u use) wider() []string {
	var out []string
	for place, part := range u.parts {
		switch {
		case part == "{id}":
			out = append(out, fmt.Sprintf("segment %d: numbers or random names were seen, any value is allowed", place+1))
		case part == anyPart:
			out = append(out, fmt.Sprintf("segment %d: %d different values were seen, any value is allowed", place+1, u.merged[place]))
		}
	}
	if len(u.methods) > 1 {
		out = append(out, "methods of one path are listed together")
	}
	if u.protocol == TCP && u.port == 0 {
		out = append(out, "the port was not known, any is allowed")
	}
	for _, rule := range u.gone {
		out = append(out, fmt.Sprintf("rule %s allowed it and is gone: under what condition is not known, here is none", rule))
	}
	return out
}
