package policy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

func TestTemplateKeepsWordsAndHidesNames(t *testing.T) {
	for path, want := range map[string]string{
		"/":                        "/",
		"/v1/orders":               "/v1/orders",
		"/v1/orders/":              "/v1/orders/",
		"/v1/orders/4711":          "/v1/orders/{id}",
		"/v1/orders/4711/lines/02": "/v1/orders/{id}/lines/{id}",
		"/u/0b9f7c1e-8a53-4f7e-9d5b-2a1c3e4d5f60/x": "/u/{id}/x",
		"/blob/9f86d081884c7d659a2feaa0c55ad015":    "/blob/{id}",
		"/t/01HZX3K9Q2V7M4N8P6R5S1T0WY":             "/t/{id}",
		"/api/v2beta1/things":                       "/api/v2beta1/things",
		"/a/deadbeef":                               "/a/deadbeef",
		"/documentation-of-the-api":                 "/documentation-of-the-api",
		"/star/*":                                   "/star/%2A",
		"/long/" + strings.Repeat("x", 300):         "/long/{id}",
		"//a":                                       "//a",
	} {
		got := string(policy.AppendTemplate(nil, path))
		if got != want {
			t.Errorf("template of %q: got %q, want %q", path, got, want)
		}
		if _, err := policy.ParseAction("GET " + got); err != nil {
			t.Errorf("template of %q: no rule can say %q: %v", path, got, err)
		}
	}
}

func TestTemplateAllocatesNothing(t *testing.T) {
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() { buf = policy.AppendTemplate(buf[:0], "/v1/orders/4711/lines/*") }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func TestFlowsSurviveTheWire(t *testing.T) {
	flow := policy.Flow{
		From: spiffeID(t, "spiffe://acme.example/vms/web"), To: "orders", Protocol: policy.HTTP, Method: "GET",
		Template: "/v1/orders/{id}", Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule, Count: 7, First: 3, Last: 9,
		Samples: []string{"/v1/orders/1"},
	}
	got, err := policy.FlowFromPB(flow.PB())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(flow, got, cmp.Comparer(func(a, b spiffe.ID) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	bad := flow.PB()
	bad.Samples = []string{"no path"}
	if _, err := policy.FlowFromPB(bad); err == nil {
		t.Error("a sample that is no path was taken")
	}
	for _, port := range []uint32{1 << 16, 1<<31 + 443, 1<<32 - 1} { // T15
		m := flow.PB()
		m.Port = port
		if got, err := policy.FlowFromPB(m); err == nil {
			t.Errorf("port %d was taken: %+v", port, got)
		}
	}
	// Attack 68: what a rogue point tells becomes no line of a file of suggestions.
	for _, evil := range []string{"/x\nidentities: []", "/x\r", "/\x1b[2J", "/a b", "/\u202e", "/\xff"} {
		for _, change := range []func(*pb.Flow){
			func(m *pb.Flow) { m.Samples = []string{evil} }, func(m *pb.Flow) { m.Template = evil }, func(m *pb.Flow) { m.Method = evil },
			func(m *pb.Flow) { m.Rule = evil }, func(m *pb.Flow) { m.To = evil }, func(m *pb.Flow) { m.Protocol, m.Template = "tcp", evil },
		} {
			m := flow.PB()
			change(m)
			if got, err := policy.FlowFromPB(m); err == nil {
				t.Errorf("%q was taken: %+v", evil, got)
			}
		}
	}
	bad.Samples = nil
	if _, err := policy.FlowFromPB(bad); err == nil {
		t.Error("a flow without a sample was taken: it could not be replayed")
	}
}

func spiffeID(t testing.TB, id string) spiffe.ID {
	t.Helper()
	out, err := spiffe.ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// flowSet is a service with two callers.
func flowSet(rules ...policy.Rule) policy.Set {
	td, _ := spiffe.ParseTrustDomain("acme.example")
	set := policy.Set{
		TrustDomain: td,
		Services: map[string]policy.Service{
			"orders": {Name: "orders", Identities: []string{"/vms/orders"}, Protocol: policy.HTTP},
			"web":    {Name: "web", Identities: []string{"/vms/web"}, Protocol: policy.HTTP},
		},
		Rules: map[string]policy.Rule{},
	}
	for _, r := range rules {
		set.Rules[r.Name] = r
	}
	return set
}

func table(t testing.TB, set policy.Set) *policy.Table {
	t.Helper()
	out, err := policy.Compile(set, "orders")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReplayFindsEachFlowThatFlips(t *testing.T) {
	web := spiffeID(t, "spiffe://acme.example/vms/web")
	wide := policy.Rule{Name: "wide", From: []string{"web"}, To: "orders", Allow: []string{"GET,POST /v1/{**}"}}
	narrow := policy.Rule{Name: "narrow", From: []string{"web"}, To: "orders", Allow: []string{"GET /v1/orders/{id}"}}
	flow := func(method, path string, count uint64) policy.Flow {
		return policy.Flow{
			From: web, To: "orders", Protocol: policy.HTTP, Method: method, Template: path, Count: count, Samples: []string{path},
		}
	}
	flows := []policy.Flow{
		flow("GET", "/v1/orders/7", 100), flow("POST", "/v1/orders", 5), flow("GET", "/v1/a%2Fb", 1), flow("DELETE", "/v1/orders/7", 2),
	}
	same := func(string) bool { return true }
	flips := policy.Replay(table(t, flowSet(wide)), table(t, flowSet(narrow)), same, flows)
	if len(flips) != 1 || flips[0].Flow.Method != "POST" || flips[0].After.Effect != policy.Deny || flips[0].Flow.Count != 5 {
		t.Errorf("got %+v, want the 5 POSTs alone: GET stays allowed, DELETE stays denied, %%2F is refused by both", flips)
	}
	if flips := policy.Replay(table(t, flowSet(narrow)), nil, same, flows); len(flips) != 1 || flips[0].Flow.Method != "GET" {
		t.Errorf("without the service: got %+v, want GET to flip", flips)
	}
}

func TestSuggestionsMergeWhatVaries(t *testing.T) {
	web := spiffeID(t, "spiffe://acme.example/vms/web")
	var flows []policy.Flow
	for _, name := range strings.Split("ann bob cem dan eve fay gil hal", " ") {
		path := "/users/" + name + "/profile"
		flows = append(flows, policy.Flow{From: web, To: "orders", Protocol: policy.HTTP, Method: "GET", Template: path, Count: 1, Samples: []string{path}})
	}
	flows = append(flows,
		policy.Flow{From: web, To: "orders", Protocol: policy.HTTP, Method: "GET", Template: "/v1/orders/{id}", Count: 3, Samples: []string{"/v1/orders/1"}},
		policy.Flow{From: web, To: "orders", Protocol: policy.HTTP, Method: "PUT", Template: "/v1/orders/{id}", Count: 2, Samples: []string{"/v1/orders/2"}},
		policy.Flow{To: "orders", Protocol: policy.HTTP, Method: "GET", Template: "/open", Count: 9, Samples: []string{"/open"}},
	)
	got := policy.Suggest(flows, policy.SuggestOptions{Vary: 8, Name: func(spiffe.ID) string { return "web" }})
	if len(got) != 1 {
		t.Fatalf("got %d suggestions, want one: nothing is suggested to anonymous peers", len(got))
	}
	if want := []string{"GET /users/{any}/profile", "GET,PUT /v1/orders/{id}"}; !slices.Equal(got[0].Rule.Allow, want) {
		t.Errorf("got %q, want %q", got[0].Rule.Allow, want)
	}
	if got[0].Rule.Name != "web-to-orders" || got[0].Evidence[0].Calls != 8 || len(got[0].Evidence[0].Wider) != 1 {
		t.Errorf("got %+v", got[0])
	}
	each := policy.Suggest(flows, policy.SuggestOptions{})
	if len(each[0].Rule.Allow) != 9 {
		t.Errorf("without Vary: got %q, want each path by itself", each[0].Rule.Allow)
	}
}

// A suggestion allows everything that was seen, and nothing that does not
// differ from something seen in the stated segments alone.
func TestSuggestionsAreNoWiderThanTheySay(t *testing.T) {
	segment := rapid.SampledFrom([]string{"v1", "orders", "users", "17", "99", "a*b", "0b9f7c1e-8a53-4f7e-9d5b-2a1c3e4d5f60", "x", "y", "z"})
	web := spiffeID(t, "spiffe://acme.example/vms/web")
	rapid.Check(t, func(t *rapid.T) {
		paths := rapid.SliceOfN(rapid.Map(rapid.SliceOfN(segment, 1, 4), func(s []string) string { return "/" + strings.Join(s, "/") }), 1, 12).Draw(t, "paths")
		var flows []policy.Flow
		for _, p := range paths {
			flows = append(flows, policy.Flow{
				From: web, To: "orders", Protocol: policy.HTTP, Method: rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"),
				Template: string(policy.AppendTemplate(nil, p)), Count: 1, Samples: []string{p},
			})
		}
		suggested := policy.Suggest(flows, policy.SuggestOptions{Vary: rapid.IntRange(0, 4).Draw(t, "vary"), Name: func(spiffe.ID) string { return "web" }})
		set := flowSet()
		for _, s := range suggested {
			set.Rules[s.Rule.Name] = s.Rule
		}
		if _, err := set.Validate(); err != nil {
			t.Fatalf("the suggestion is no valid policy: %v", err)
		}
		tab, err := policy.Compile(set, "orders")
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range flows {
			if d := tab.Decide(tab.Peer(web), policy.Request{Protocol: policy.HTTP, Method: f.Method, Path: f.Samples[0]}); d.Effect != policy.Allow {
				t.Fatalf("%s %s was seen and is denied by %q", f.Method, f.Samples[0], suggested[0].Rule.Allow)
			}
		}
		probe := "/" + strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "probe"), "/")
		if d := tab.Decide(tab.Peer(web), policy.Request{Protocol: policy.HTTP, Method: "GET", Path: probe}); d.Effect == policy.Allow && !stated(suggested, flows, probe) {
			t.Fatalf("%s was never seen, and no evidence says it is allowed: %+v", probe, suggested)
		}
	})
}

// stated is true if a path differs from one seen only where evidence says so.
func stated(suggested []policy.Suggestion, flows []policy.Flow, probe string) bool {
	got := strings.Split(probe, "/")
	for _, s := range suggested {
		for _, e := range s.Evidence {
			methods, template, _ := strings.Cut(e.Action, " ")
			want := strings.Split(template, "/")
			if !strings.Contains(methods, "GET") || len(want) != len(got) {
				continue
			}
			for _, f := range flows {
				seen := strings.Split(f.Samples[0], "/")
				if len(seen) != len(got) {
					continue
				}
				same := true
				for i := range got {
					same = same && (got[i] == seen[i] || strings.HasPrefix(want[i], "{") && len(e.Wider) > 0)
				}
				if same {
					return true
				}
			}
		}
	}
	return false
}

// What flows do not keep cannot be replayed: a condition counts as it came out
// when it was recorded, as long as it stays the same.
func TestReplayOfConditionsIsHonest(t *testing.T) {
	web := spiffeID(t, "spiffe://acme.example/vms/web")
	rule := policy.Rule{Name: "r", From: []string{"web"}, To: "orders", Allow: []string{"GET /v1"}, When: `request.headers["tier"] == "gold"`}
	plain, other := rule, rule
	plain.When, other.When = "", `request.headers["tier"] == "silver"`
	flow := policy.Flow{
		From: web, To: "orders", Protocol: policy.HTTP, Method: "GET", Template: "/v1", Count: 1, Samples: []string{"/v1"},
		Effect: policy.Allow, Rule: "r", Reason: policy.AllowRule,
	}
	for name, c := range map[string]struct {
		before, after []policy.Rule
		same          bool
		flips, unsure bool
	}{
		"the condition stays":       {before: []policy.Rule{rule}, after: []policy.Rule{rule}, same: true},
		"another condition":         {before: []policy.Rule{rule}, after: []policy.Rule{other}, flips: true, unsure: true},
		"a new condition":           {before: []policy.Rule{plain}, after: []policy.Rule{rule}, flips: true, unsure: true},
		"the condition goes":        {before: []policy.Rule{rule}, after: []policy.Rule{plain}},
		"the conditional rule goes": {before: []policy.Rule{rule}, flips: true},
	} {
		got := policy.Replay(table(t, flowSet(c.before...)), table(t, flowSet(c.after...)), func(string) bool { return c.same }, []policy.Flow{flow})
		if len(got) > 0 != c.flips || c.flips && got[0].Unsure != c.unsure {
			t.Errorf("%s: got %+v, want a flip: %v, unsure: %v", name, got, c.flips, c.unsure)
		}
	}
}
