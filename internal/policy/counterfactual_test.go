package policy

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// called is how a person names a caller of these tests: by its first service, or
// by its ID, without the own trust domain.
func called(set Set, peer string) string {
	for _, name := range slices.Sorted(maps.Keys(set.Services)) {
		if slices.ContainsFunc(set.Services[name].Identities, func(id string) bool { return refWhole(id) == peer }) {
			return name
		}
	}
	return strings.TrimPrefix(peer, "spiffe://"+ownDomain)
}

// fixOf is the fix as an operator is shown it; of gRPC in its own words, if they
// say it.
func fixOf(d Decision, set Set, service, peer string, r Request) string {
	from, when := called(set, peer), set.Rules[d.Near.Rule].When
	if r.Protocol == GRPC && r.Method == "POST" {
		if fix := Fix(d, from, service, "grpc", strings.TrimPrefix(r.Path, "/"), when); fix != "" {
			return fix
		}
	}
	return Fix(d, from, service, r.Method, r.Path, when)
}

// typed is the rule that a fix makes when it is typed into a shell.
func typed(t *rapid.T, fix string) Rule {
	fix = strings.TrimSuffix(fix, wider)
	var words []string
	word, quote, open := "", byte(0), false
	for i := 0; i < len(fix); i++ {
		switch c := fix[i]; {
		case quote == 0 && c == ' ':
			if open {
				words = append(words, word)
			}
			word, open = "", false
		case quote == 0 && (c == '"' || c == '\''):
			quote, open = c, true
		case quote == c:
			quote = 0
		case quote == 0 && c == '\\':
			i++
			word, open = word+fix[i:i+1], true
		default:
			word, open = word+string(c), true
		}
	}
	words = append(words, word)
	if len(words) != 6 && (len(words) != 8 || words[6] != "--when") || words[0] != "kith" || words[1] != "allow" || words[4] != "on" {
		t.Fatalf("%s is %q", fix, words)
	}
	r := Rule{Name: "the-fix", From: []string{words[2]}, To: words[5], Allow: []string{words[3]}}
	if len(words) == 8 {
		r.When = words[7]
	}
	return r
}

// with1 is set with one more rule, which a server would accept.
func with1(t *rapid.T, set Set, r Rule) Set {
	set.Rules = maps.Clone(set.Rules)
	set.Rules[r.Name] = r
	if _, err := set.Validate(); err != nil {
		t.Fatalf("%+v is refused: %v", r, err)
	}
	return set
}

// Whoever is denied, by whatever rules: the fix that is shown, applied as it
// stands, allows this very request; and where none is shown no allow could.
func TestFixesAllowWhatWasDeniedAndOthersAreNotShown(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	fixed, kept, hopeless := 0, 0, 0
	until(t, func() bool { return fixed > 0 && hopeless > 0 }, func(rt *rapid.T) {
		set := genSet(rt, td)
		service := rapid.SampledFrom([]string{"orders", "calls", "db", "seen"}).Draw(rt, "service")
		table := mustCompile(t, set, service)
		peer := rapid.SampledFrom(propertyPeers()).Draw(rt, "peer")
		all := propertyRequests(set.Services[service].Protocol)
		for range 24 {
			r := rapid.SampledFrom(all).Draw(rt, "request")
			d := table.Explain(resolvePeer(t, table, peer), r)
			if !d.Denies() {
				continue
			}
			if fix := fixOf(d, set, service, peer, r); fix != "" {
				fixed++
				proposed := typed(rt, fix)
				if set.Rules[d.Near.Rule].When != "" && proposed.When == "" && !strings.HasSuffix(fix, wider) {
					rt.Fatalf("%s %+v: %+v\n%s leaves the condition out and does not say so", peer, r, d, fix)
				}
				if proposed.When != "" {
					kept++
				}
				after := mustCompile(t, with1(rt, set, proposed), service)
				if got := after.Explain(resolvePeer(t, after, peer), r); got.Denies() {
					rt.Fatalf("%s %+v: %+v\nafter %s: %+v", peer, r, d, fix, got)
				}
				continue
			}
			if peer == "" || r.Protocol.carriesRequests() != set.Services[service].Protocol.carriesRequests() || r.Protocol == 0 || r.Method == "" && r.Protocol != TCP {
				continue // no name to allow; no request of this service
			}
			hopeless++
			everything := Rule{Name: "everything", From: []string{called(set, peer)}, To: service, Allow: []string{"* /{**}"}}
			if r.Protocol == TCP {
				everything.Allow = []string{"tcp"}
			}
			after := mustCompile(t, with1(rt, set, everything), service)
			if got := after.Explain(resolvePeer(t, after, peer), r); !got.Denies() {
				rt.Fatalf("%s %+v: %+v has no fix, but %+v allows it", peer, r, d, everything)
			}
		}
	})
	// Those with a condition are few here: TestFixesKeepConditions has one of each kind.
	if fixed == 0 || hopeless == 0 {
		t.Errorf("%d fixes and %d denials without one were tried", fixed, hopeless)
	}
	t.Logf("%d fixes applied, %d of them with a condition, %d denials without one", fixed, kept, hopeless)
}

// The rule cited for an allow is the reason for it: without that rule, and those
// cited in its place, nothing allows. So with denies, until they are gone.
func TestWithoutAllThatIsCitedTheDecisionFlips(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	flips := 0
	until(t, func() bool { return flips > 0 }, func(rt *rapid.T) {
		set := genSet(rt, td)
		service := rapid.SampledFrom([]string{"orders", "calls", "db"}).Draw(rt, "service")
		peer := rapid.SampledFrom(propertyPeers()).Draw(rt, "peer")
		r := rapid.SampledFrom(propertyRequests(set.Services[service].Protocol)).Draw(rt, "request")
		table := mustCompile(t, set, service)
		first := table.Decide(resolvePeer(t, table, peer), r)
		for d := first; d.Rule != "" && d.Reason == first.Reason; {
			before := len(reference(set, service, peer, r).rules)
			set.Rules = maps.Clone(set.Rules)
			delete(set.Rules, d.Rule)
			table = mustCompile(t, set, service)
			next := table.Decide(resolvePeer(t, table, peer), r)
			if before == 1 { // it was the only one
				flips++
				if next.Effect == d.Effect && next.Reason == d.Reason {
					rt.Fatalf("%s %+v: %+v, and without its rule %+v", peer, r, d, next)
				}
			}
			d = next
		}
	})
	if flips == 0 {
		t.Error("no decision hung on one rule")
	}
	t.Logf("%d decisions flipped", flips)
}
