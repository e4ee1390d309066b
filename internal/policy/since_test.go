package policy

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whatever changes: where Since says that a service is not touched, the table of
// before decides every request as the one of now does.
func TestWhatIsNotTouchedDecidesAlike(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	kept, compiled := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		set := genSet(rt, td)
		book := bookOf(set)
		for range rapid.IntRange(1, 8).Draw(rt, "changes") {
			next, fork, _, _ := step(rt, set, book)
			if rapid.IntRange(0, 4).Draw(rt, "move") == 0 { // who a service is, or who speaks for whom to it
				s := rapid.SampledFrom(propertyServices()).Draw(rt, "moved")
				s.Identities = []string{rapid.SampledFrom([]string{"/n/web", "/n/batch", "/m/calls"}).Draw(rt, "to")}
				if s.Protocol != TCP && rapid.Bool().Draw(rt, "forwarded") {
					s.Forwarded = Forwarded{By: []string{"web"}, Hops: 1}
				}
				next.Services = maps.Clone(next.Services)
				next.Services[s.Name] = s
				fork.PutService(s)
			}
			if _, err := next.Validate(); err != nil {
				continue
			}
			since := fork.Since(book)
			service := rapid.SampledFrom(slices.Sorted(maps.Keys(next.Services))).Draw(rt, "service")
			if since.Touches(service) {
				compiled++
			} else {
				kept++
				before, now := mustCompile(t, set, service), mustCompile(t, next, service)
				peer := rapid.SampledFrom(propertyPeers()).Draw(rt, "peer")
				for _, r := range propertyRequests(next.Services[service].Protocol) {
					if got, want := before.Explain(resolvePeer(t, before, peer), r), now.Explain(resolvePeer(t, now, peer), r); got != want {
						rt.Fatalf("%s of %s %+v: the kept table says %+v, compiled anew it says %+v", service, peer, r, got, want)
					}
				}
			}
			set, book = next, fork
		}
	})
	if kept == 0 || compiled == 0 {
		t.Errorf("%d tables kept, %d compiled: want some of each", kept, compiled)
	}
}

// One change touches the services that it is about and no others.
func TestOneChangeTouchesWhatItIsAbout(t *testing.T) {
	set := Set{TrustDomain: trustDomain(t), Services: map[string]Service{}, Rules: map[string]Rule{}}
	for _, s := range propertyServices() {
		set.Services[s.Name] = s
	}
	set.Rules["reads"] = Rule{Name: "reads", From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, When: `jwt.sub == "x"`}
	set.Rules["never"] = Rule{Name: "never", From: []string{"batch"}, To: "/m/**", Deny: []string{"* /{**}"}, Guardrail: true}
	book := bookOf(set)
	with := func(change func(b *Book)) *Book {
		next := book.Fork()
		change(next)
		return next
	}
	moved := set.Services["batch"]
	moved.Identities = []string{"/n/other"}
	fronted := set.Services["seen"]
	fronted.Forwarded = Forwarded{By: []string{"web"}, Hops: 1}
	for what, test := range map[string]struct {
		next *Book
		want []string
	}{
		"nothing":           {with(func(*Book) {}), nil},
		"a rule":            {with(func(b *Book) { b.PutRule(set.Rules["reads"]) }), []string{"orders"}},
		"a rule gone":       {with(func(b *Book) { b.RemoveRule("reads") }), []string{"orders"}},
		"a wide rule":       {with(func(b *Book) { b.PutRule(set.Rules["never"]) }), []string{"calls"}},
		"a wide rule gone":  {with(func(b *Book) { b.RemoveRule("never") }), []string{"calls"}},
		"who a rule is of":  {with(func(b *Book) { b.PutService(moved) }), []string{"batch", "calls"}},
		"who forwards":      {with(func(b *Book) { b.PutService(fronted) }), []string{"seen"}},
		"a service gone":    {with(func(b *Book) { b.RemoveService("web") }), []string{"orders", "web"}},
		"a service written": {with(func(b *Book) { b.PutService(set.Services["db"]) }), nil}, // to what it was
	} {
		var got []string
		since := test.next.Since(book)
		for _, name := range book.ServiceNames() {
			if since.Touches(name) {
				got = append(got, name)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: touches %v, want %v", what, got, test.want)
		}
	}
	if !book.ReadTokens("db", "orders") || book.ReadTokens("db", "calls") {
		t.Error("ReadTokens: want it of orders alone")
	}
}
