package adopt_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// What stands in the cluster of the tests of Linkerd and NetworkPolicy, who calls,
// and how the decision of the other system is compared with that of adopted rules.

// pods are two behind one service, one beside it, and two in another namespace.
func pods() []adopt.Workload {
	return []adopt.Workload{
		{Service: "orders", Namespace: "shop", Labels: map[string]string{"app": "orders", "tier": "blue"}, Protocol: policy.HTTP, Ports: map[string]int{"main": 8080, "admin": 9090}},
		{Service: "orders", Namespace: "shop", Labels: map[string]string{"app": "orders", "tier": "green"}, Protocol: policy.HTTP, Ports: map[string]int{"main": 8080, "admin": 9091}},
		{Service: "web", Namespace: "shop", Labels: map[string]string{"app": "web"}, Protocol: policy.HTTP, Ports: map[string]int{"main": 8080}},
		{Service: "db", Namespace: "data", Labels: map[string]string{"app": "db"}, Protocol: policy.TCP, Ports: map[string]int{"main": 5432}},
		{Service: "batch", Namespace: "data", Labels: map[string]string{"app": "web", "tier": "green"}, Protocol: policy.HTTP, Ports: map[string]int{"main": 8080}},
	}
}

var (
	requestPorts   = []int{8080, 9090, 9091, 5432}
	requestSources = []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
)

// meshCaller is who calls: the ID here, the name in Linkerd where it is one of DNS,
// and the pod where it is one of the cluster.
type meshCaller struct {
	id, dns string
	pod     *adopt.Workload
}

// ours is false for callers that are never let in here unless a policy names them.
func (c meshCaller) ours() bool { return strings.HasPrefix(c.id, "spiffe://acme.example/") }

func callers() []meshCaller {
	of := pods()
	return []meshCaller{
		{},
		{id: "spiffe://acme.example/eks/shop/orders", dns: accountName("shop", "orders"), pod: &of[0]},
		{id: "spiffe://acme.example/eks/shop/orders", dns: accountName("shop", "orders"), pod: &of[1]},
		{id: "spiffe://acme.example/eks/shop/web", dns: accountName("shop", "web"), pod: &of[2]},
		{id: "spiffe://acme.example/eks/data/db", dns: accountName("data", "db"), pod: &of[3]},
		{id: "spiffe://acme.example/eks/data/batch", dns: accountName("data", "batch"), pod: &of[4]},
		{id: "spiffe://acme.example/eks/ops/web", dns: accountName("ops", "web")},
		{id: "spiffe://acme.example/vms/shop/web"},
		{id: "spiffe://acme.example/eks/shop/web/more"},
		{id: "spiffe://acme.example/eks/shop"},
		{id: "spiffe://other.example/eks/shop/web", dns: "web.shop" + meshNames + "other.example"},
	}
}

// adopting is one import, with what the other system decides. Ports and pods that
// none of its objects governs it leaves to a default of its own.
type adopting struct {
	system, text string
	odd          bool // some of it may be refused
	kept         int  // parts that go on to be enforced where they are
	unlisted     []string
	allows       func(pod adopt.Workload, port int, c meshCaller, source netip.Addr) (allowed, governed bool)
}

// tally counts what was compared, so that a test that shows nothing fails.
type tally struct{ allowed, denied int }

func (n *tally) check(t *testing.T) {
	t.Helper()
	if n.allowed == 0 || n.denied == 0 {
		t.Errorf("the test shows nothing: %+v", *n)
	}
}

// compare adopts and decides every request of every caller to every pod: a service
// that was given up has no rule, and any other lets in whom the other system does,
// save callers without an identity of ours and what the other system's default is.
func (n *tally) compare(t *rapid.T, a adopting) {
	in := inventory()
	in.Workloads, in.Aliases = pods(), []string{"old.example"}
	in.Namespaces = map[string]map[string]string{"shop": {"team": "sales"}, "data": {"team": "stats"}}
	for _, namespace := range a.unlisted {
		delete(in.Namespaces, namespace)
	}
	result, err := adopt.Read(a.system, in, []adopt.File{{Name: "x.yaml", Data: []byte(a.text)}})
	if err != nil {
		t.Fatalf("%v\n%s", err, a.text)
	}
	kept := 0
	for _, line := range result.Refused {
		switch {
		case strings.Contains(line.Text, "keep this part as a NetworkPolicy"):
			kept++
		case !a.odd && !strings.Contains(line.Text, "selects no workload"):
			t.Fatalf("refused: %+v\n%s", line, a.text)
		}
	}
	if !a.odd && (kept != a.kept || len(result.Left) > 0) {
		t.Fatalf("%d parts are said to be kept where they are, want %d; nothing made for %v\n%s", kept, a.kept, result.Left, a.text)
	}
	tables := tables(t, result)
	for _, pod := range in.Workloads {
		if slices.Contains(result.Left, pod.Service) {
			if slices.ContainsFunc(result.Rules, func(r policy.Rule) bool { return r.To == pod.Service }) {
				t.Fatalf("a rule for %s, which was given up: %+v", pod.Service, result)
			}
			continue
		}
		for _, c := range callers() {
			n.calls(t, a, result, tables[pod.Service], pod, c)
		}
	}
}

// calls compares the requests of one caller to one pod.
func (n *tally) calls(t *rapid.T, a adopting, result adopt.Result, table *policy.Table, pod adopt.Workload, c meshCaller) {
	peer := table.Anonymous()
	if c.id != "" {
		id, err := spiffe.ParseID(c.id)
		if err != nil {
			t.Fatalf("%v", err)
		}
		peer = table.Peer(id)
	}
	for _, port := range requestPorts {
		for _, source := range requestSources {
			r := policy.Request{Protocol: pod.Protocol, Port: uint16(port), Facts: &policy.Facts{Source: source}}
			if pod.Protocol == policy.HTTP {
				r.Method, r.Path = "GET", "/v1"
			}
			got := table.Decide(peer, r).Effect == policy.Allow
			want, governed := a.allows(pod, port, c, source)
			switch {
			case !governed && !got && said(result, pod.Service): // and the default is told of
			case got && want && governed:
				n.allowed++
			case !got && !want:
				n.denied++
			case !got && governed && !c.ours():
			default:
				t.Fatalf("%+v from %v to port %d of %s %v: it allows: %v (governed: %v), the adopted rules: %v\n%s\n%+v\n%+v",
					c, source, port, pod.Service, pod.Labels, want, governed, got, a.text, result.Rules, result.Refused)
			}
		}
	}
}

// said is true where the lines tell that a default of the other system is not ours.
func said(result adopt.Result, service string) bool {
	return slices.ContainsFunc(result.Lines, func(l adopt.Line) bool {
		return l.Object == "service "+service && strings.Contains(l.Text, "here nothing is allowed")
	})
}

// tables compiles the rules for each service.
func tables(t *rapid.T, result adopt.Result) map[string]*policy.Table {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatalf("%v", err)
	}
	set := policy.Set{TrustDomain: td, Rules: make(map[string]policy.Rule), Services: make(map[string]policy.Service)}
	for _, pod := range pods() {
		set.Services[pod.Service] = policy.Service{
			Name: pod.Service, Identities: []string{"/eks/" + pod.Namespace + "/" + pod.Service}, Protocol: pod.Protocol,
		}
	}
	for _, r := range result.Rules {
		set.Rules[r.Name] = r
	}
	if _, err := set.Validate(); err != nil {
		t.Fatalf("the adopted rules are not valid: %v\n%+v", err, result.Rules)
	}
	out := make(map[string]*policy.Table)
	for name := range set.Services {
		table, err := policy.Compile(set, name)
		if err != nil {
			t.Fatalf("compile: %v", err)
		}
		out[name] = table
	}
	return out
}

// sometimes is a text, or where that is on now and then one of others.
func sometimes(t *rapid.T, on bool, text string, others ...string) string {
	if !on || rapid.Bool().Draw(t, "usual") {
		return text
	}
	return rapid.SampledFrom(others).Draw(t, "other")
}

// oddity is which part of a document may be of the kind that is refused: none in
// every second document.
func oddity(t *rapid.T, kinds ...string) string {
	if rapid.Bool().Draw(t, "plain") {
		return ""
	}
	return rapid.SampledFrom(kinds).Draw(t, "oddity")
}

// latest leaves the last of those that have the same key.
func latest[T any](list []T, key func(T) string) []T {
	var out []T
	for _, item := range list {
		out = append(slices.DeleteFunc(out, func(other T) bool { return key(other) == key(item) }), item)
	}
	return out
}

// has is true where labels have all of some.
func has(labels, some map[string]string) bool {
	for key, value := range some {
		if labels[key] != value {
			return false
		}
	}
	return true
}

func labelsYAML(labels map[string]string) string {
	if labels == nil {
		return "{}"
	}
	var parts []string
	for key, value := range labels {
		parts = append(parts, fmt.Sprintf("%q: %q", key, value))
	}
	slices.Sort(parts)
	return "{matchLabels: {" + strings.Join(parts, ", ") + "}}"
}
