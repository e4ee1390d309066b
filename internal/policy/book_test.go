package policy

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// bookOf is a set as a book.
func bookOf(set Set) *Book {
	b := NewBook(set.TrustDomain)
	b.Revision = set.Revision
	for _, s := range set.Services {
		b.PutService(s)
	}
	for _, r := range set.Rules {
		b.PutRule(r)
	}
	return b
}

// step is a random change of a set and a fork of its book; only says which rules
// it is about, if it is about nothing else.
func step(t *rapid.T, set Set, book *Book) (next Set, fork *Book, rules []string, only bool) {
	next, fork, only = set, book.Fork(), true
	next.Services, next.Rules = maps.Clone(set.Services), maps.Clone(set.Rules)
	for range rapid.IntRange(1, 3).Draw(t, "edits") {
		name := rapid.SampledFrom([]string{"r-a", "r-b", "r-c", "r-d", "r-e", "r-f"}).Draw(t, "rule")
		switch rapid.IntRange(0, 9).Draw(t, "edit") {
		case 0:
			s := rapid.SampledFrom(propertyServices()).Draw(t, "service")
			s.Protocol = rapid.SampledFrom([]Protocol{HTTP, GRPC, TCP}).Draw(t, "protocol")
			next.Services[s.Name], only = s, false
			fork.PutService(s)
		case 1:
			s := rapid.SampledFrom(propertyServices()).Draw(t, "gone").Name
			delete(next.Services, s)
			fork.RemoveService(s)
			only = false
		case 2, 3:
			delete(next.Rules, name)
			fork.RemoveRule(name)
			rules = append(rules, name)
		default:
			r := genRule(name).Draw(t, "put")
			if rapid.IntRange(0, 9).Draw(t, "faulty") == 0 {
				r = rapid.SampledFrom([]Rule{
					{Name: name, From: []string{"wep"}, To: "orders", Allow: []string{"GET /"}},
					{Name: name, From: []string{"web"}, To: "order", Allow: []string{"GET /"}},
					{Name: name, From: []string{"web"}, To: "db", Allow: []string{"GET /"}},
					{Name: name, From: []string{"web"}, To: "/no/such", Allow: []string{"GET /"}},
					{Name: name, From: []string{"web"}, To: "orders", Allow: []string{"GET x"}},
					{Name: name, From: []string{"web"}, To: "orders", Allow: []string{"GET /"}, When: "request.hots == 1"},
				}).Draw(t, "fault")
			}
			next.Rules[name] = r
			fork.PutRule(r)
			rules = append(rules, name)
		}
	}
	return next, fork, rules, only
}

// After any changes a book says of itself, of every slice and of the next change
// what the set it stands for says when all of it is looked at.
func TestBookIsItsSetAfterAnyChanges(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	checked := 0
	rapid.Check(t, func(rt *rapid.T) {
		set := genSet(rt, td)
		book := bookOf(set)
		for range rapid.IntRange(1, 8).Draw(rt, "changes") {
			next, fork, rules, only := step(rt, set, book)
			if got := fork.Set(); !reflect.DeepEqual(got, next) {
				rt.Fatalf("got %+v\nwant %+v", got, next)
			}
			if got := book.Set(); !reflect.DeepEqual(got, set) {
				rt.Fatalf("the book before the change has changed: %+v\nwant %+v", got, set)
			}
			warnings, err := next.Validate()
			before, unsound := set.Validate()
			if unsound == nil {
				warnings = slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(before, w) })
			}
			var brought []string
			var got error
			if only {
				checked++
				brought, got = fork.Check(book, rules...)
			} else {
				brought, got = fork.CheckWhole(book)
			}
			if fmt.Sprint(got) != fmt.Sprint(err) || err == nil && !slices.Equal(brought, warnings) {
				rt.Fatalf("%v: got %q, %v\nwant %q, %v", rules, brought, got, warnings, err)
			}
			if err != nil {
				continue
			}
			set, book = next, fork
			names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"orders", "calls", "db", "seen", "web", "none"}), 1, 3, rapid.ID[string]).Draw(rt, "slice")
			if got, want := book.Slice(names...), set.Slice(names...); !reflect.DeepEqual(got, want) {
				rt.Fatalf("slice of %v: got %+v\nwant %+v", names, got, want)
			}
		}
	})
	if checked == 0 {
		t.Error("no change was of rules alone")
	}
	t.Logf("%d changes of rules alone", checked)
}

// What a book compiles after changes decides as what the whole set compiles to, and
// what the one refuses the other refuses.
func TestBookDecidesAsItsSetAfterAnyChanges(t *testing.T) {
	checks(t)
	td := trustDomain(t)
	asked := 0
	rapid.Check(t, func(rt *rapid.T) {
		set := genSet(rt, td)
		book := bookOf(set)
		for range rapid.IntRange(1, 5).Draw(rt, "changes") {
			next, fork, _, _ := step(rt, set, book)
			for name := range next.Services {
				_, one := fork.Compile(name)
				if _, whole := Compile(next, name); (one == nil) != (whole == nil) {
					rt.Fatalf("%s: the book says %v, the set %v", name, one, whole)
				}
			}
			if _, err := next.Validate(); err == nil {
				set, book = next, fork
			}
		}
		service := rapid.SampledFrom(slices.Sorted(maps.Keys(set.Services))).Draw(rt, "service")
		table, err := book.Compile(service)
		if err != nil {
			rt.Fatal(err)
		}
		whole := mustCompile(t, set, service)
		peer := rapid.SampledFrom(propertyPeers()).Draw(rt, "peer")
		for _, r := range propertyRequests(set.Services[service].Protocol) {
			asked++
			got, want := table.Explain(resolvePeer(t, table, peer), r), whole.Explain(resolvePeer(t, whole, peer), r)
			if got != want {
				rt.Fatalf("%s %+v: got %+v, want %+v", peer, r, got, want)
			}
		}
	})
	t.Logf("%d decisions compared", asked)
}
