package extauthz

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/pb/envoypb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/usertoken/usertokentest"
	"github.com/kith-id/kith/spiffe"
)

// newPoint is a point that keeps nothing.
func newPoint() *Point {
	return NewPoint(PointConfig{
		Stale: func() bool { return false }, Now: func() time.Time { return time.Unix(1_800_000_000, 0) },
		Report: func(*pb.Decision) {}, Count: func(policy.Flow) {}, Missing: func(string, string) {},
	})
}

var incrementalServices = []string{"a", "b", "c", "web", "edge"}

// mutate makes the next policy of one.
func mutate(t *rapid.T, p Policy, forge *usertokentest.Forge, url string) Policy {
	name := func(label string) string { return rapid.SampledFrom(incrementalServices).Draw(t, label) }
	p.Revision++
	p.Book = p.Book.Fork()
	p.Unread = nil
	switch rapid.IntRange(0, 11).Draw(t, "what") {
	case 0:
		svc := policy.Service{Name: name("service"), Identities: []string{"/vms/" + name("identity")}, Protocol: policy.HTTP}
		if rapid.Bool().Draw(t, "forwarded") {
			svc.Forwarded = policy.Forwarded{By: []string{name("by")}, Hops: 1}
		}
		if rapid.IntRange(0, 3).Draw(t, "observe") == 0 {
			svc.Mode = policy.Observe
		}
		p.Book.PutService(svc)
	case 1:
		p.Book.RemoveService(name("gone"))
	case 2:
		p.Book.RemoveRule("r" + name("forgotten"))
	case 3:
		p.Services = rapid.SliceOfDistinct(rapid.SampledFrom(incrementalServices), rapid.ID[string]).Draw(t, "own")
	case 4:
		p.Providers = nil
		if rapid.Bool().Draw(t, "provider") {
			p.Providers = []usertoken.Provider{{Name: "login", Issuer: forge.Issuer, Audiences: []string{"orders"}, URL: url, Services: rapid.SampledFrom([][]string{nil, {"a"}, {"b", "c"}}).Draw(t, "for")}}
		}
	case 5:
		p.Unread = fault.Invalidf("of a newer schema")
	case 6:
		p.Book.PutRule(policy.Rule{Name: "wide", From: []string{name("kept out")}, To: rapid.SampledFrom([]string{"any", "/vms/a", "/vms/*"}).Draw(t, "wide"), Deny: []string{"GET /x"}, Guardrail: true})
	default:
		r := policy.Rule{
			Name: "r" + name("rule"), From: []string{rapid.SampledFrom([]string{"web", "edge", "any", "/vms/b"}).Draw(t, "from")}, To: name("to"),
			Allow: []string{rapid.SampledFrom([]string{"GET /x", "* /{**}", "POST /y", "GET no path"}).Draw(t, "action")},
			When:  rapid.SampledFrom([]string{"", "", `jwt.sub == "alice"`, `request.source_ip.within("192.0.2.0/24")`}).Draw(t, "when"),
		}
		p.Book.PutRule(r)
	}
	return p
}

// Whatever changes, in whatever order, a point that goes on with what it has answers
// every question, and acks, as one that has compiled the whole from nothing.
func TestIncrementalIsCompiledFromNothing(t *testing.T) {
	const url = "https://login.example/jwks"
	forge := usertokentest.New(t, "https://login.example")
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	token := "Bearer " + forge.Token(time.Unix(1_800_000_000, 0), nil)
	keys := &pb.ProviderKeys{Url: url, Jwks: []byte(forge.JWKS())}
	asked, kept, allowed := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		p := Policy{Book: policy.NewBook(td), Services: incrementalServices}
		for _, name := range incrementalServices {
			p.Book.PutService(policy.Service{Name: name, Identities: []string{"/vms/" + name}, Protocol: policy.HTTP})
		}
		going := newPoint()
		for range rapid.IntRange(1, 25).Draw(t, "changes") {
			p = mutate(t, p, forge, url)
			former := going.last.tables
			ack := going.Rule(p)
			if ack.GetError() == "" && len(former) > 0 {
				for name, table := range going.last.tables {
					if former[name] == table {
						kept++
					}
				}
			}
			if rapid.Bool().Draw(t, "keys") {
				going.Learn(keys)
			}
			fresh := newPoint()
			fresh.keys = going.keys
			if want := fresh.Rule(p); ack.GetError() != want.GetError() || ack.GetRevision() != want.GetRevision() {
				t.Fatalf("ack %v, compiled from nothing %v", ack, want)
			}
			for range 12 {
				in := get("spiffe://acme.example/vms/"+rapid.SampledFrom(incrementalServices).Draw(t, "caller"), rapid.SampledFrom([]string{"/x", "/y", "//"}).Draw(t, "path"))
				in.ContextExtensions = map[string]string{"kith.service": rapid.SampledFrom(append(slices.Clone(incrementalServices), "")).Draw(t, "asked")}
				in.Request.Http.Method = rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method")
				in.Request.Http.Headers = map[string]string{"x-forwarded-for": "192.0.2.1"}
				in.Source.Address = &envoypb.Address{Address: &envoypb.Address_SocketAddress{SocketAddress: &envoypb.SocketAddress{Address: "198.51.100.1"}}}
				if rapid.Bool().Draw(t, "token") {
					in.Request.Http.Headers["authorization"] = token
				}
				q, err := questionOf(in, going.cfg.Now())
				if err != nil {
					t.Fatal(err)
				}
				again, _ := questionOf(in, going.cfg.Now())
				got, want := going.Decide(q), fresh.Decide(again)
				asked++
				if got.Allowed() {
					allowed++
				}
				if diff := cmp.Diff(whole(want), whole(got)); diff != "" {
					t.Fatalf("%v (-from nothing +incremental)\n%s", in, diff)
				}
			}
		}
	})
	if kept == 0 || allowed == 0 || allowed == asked {
		t.Errorf("%d tables kept, %d of %d allowed: want some of each", kept, allowed, asked)
	}
}

// whole is what an answer says: the decision, about whom, and why there was none.
func whole(a Answer) string {
	return fmt.Sprintf("%+v %s %s %v", a.Decision, a.Service, a.From, a.Fault)
}

// Of a thousand services the one is compiled that a change is about.
func TestOneChangeCompilesOneService(t *testing.T) {
	sl := slice()
	for i := range 1000 {
		name := fmt.Sprintf("s-%d", i)
		sl.Services = append(sl.Services, service(name, policy.HTTP))
		sl.Rules = append(sl.Rules, rule("r-"+name, "web", name, "GET /v1"))
	}
	p, point := policyOf(sl), newPoint()
	if ack := point.Rule(p); ack.GetError() != "" {
		t.Fatal(ack)
	}
	former := point.last
	p.Revision++
	p.Book = p.Book.Fork()
	p.Book.PutRule(policy.Rule{Name: "r-s-7", From: []string{"web"}, To: "s-7", Allow: []string{"GET /v2"}})
	point.Rule(p)
	var anew []string
	for name, table := range point.last.tables {
		if table != former.tables[name] || point.last.tokens[name] != former.tokens[name] {
			anew = append(anew, name)
		}
	}
	if !slices.Equal(anew, []string{"s-7"}) {
		t.Errorf("made anew: %s, want s-7", strings.Join(anew, " "))
	}
	d := &desk{point: point}
	s := NewService(Config{Desk: d, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	for name, want := range map[string]string{"s-7": "no_rule", "s-8": "allow_rule"} {
		in := get(web, "/v1")
		in.ContextExtensions = map[string]string{"kith.service": name}
		if got := ask(t, s, in); said(got, "reason") != want || said(got, "revision") != "8" && got.GetDynamicMetadata().GetFields()["revision"].GetNumberValue() != 8 {
			t.Errorf("%s: got %v, want %s at revision 8", name, got.GetDynamicMetadata(), want)
		}
	}
}
