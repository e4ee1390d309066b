package main

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// condition is one that every rule of a set has, and what it may cost.
type condition struct {
	name, what, when string
	goal             float64 // ns beyond a decision without one; 0: none is set
}

const plainEngine = "kith-when-none"

// nativeGoal and celGoal are ns.
const (
	nativeGoal = 45
	celGoal    = 600
)

func conditions() []condition {
	return []condition{
		{"kith-when-method", "condition, native: a method", `request.method == "GET"`, nativeGoal},
		{"kith-when-network", "condition, native: a network", `request.source_ip.within("10.0.0.0/8")`, nativeGoal},
		{"kith-when-segment", "condition, native: a segment of the caller's path", `peer.path[1] == "shop"`, nativeGoal},
		{"kith-when-header", "condition, native: a header", `request.headers["x-env"] == "prod"`, nativeGoal},
		{"kith-when-claim", "condition, native: a word of a user token's scope", `"write" in jwt.scope`, nativeGoal},
		{"kith-when-choice", "condition, CEL as steps: one of two comparisons", `request.method == "GET" ? request.port == 8080 : request.port == 1`, celGoal},
		{"kith-when-equal", "condition, CEL as steps: two facts compared", `request.headers["x-env"] != request.method`, celGoal},
		{"kith-when-exists", "condition, CEL as steps: exists() over the caller's path", `peer.path.exists(segment, segment == "shop")`, celGoal},
		{"kith-when-chosen", "condition, CEL's interpreter: a fact and one of two texts compared", `request.headers["x-env"] == (request.method == "GET" ? "prod" : "test")`, celGoal},
		{"kith-when-among", "condition, CEL's interpreter making a list: a fact among facts", `request.method in [request.headers["x-env"], "GET"]`, 0},
	}
}

// verified is a user's token as it is after it was checked.
type verified map[string]any

func (v verified) Claims() (map[string]any, policy.TokenState) { return v, policy.TokenValid }

// newKithWhen decides with one condition on each rule; "" for none.
func newKithWhen(when string) maker {
	return func(rules []spec, asked []query) (func() (engine, error), error) {
		set, err := kithSet(rules)
		if err != nil {
			return nil, err
		}
		for name, r := range set.Rules {
			r.When = when
			set.Rules[name] = r
		}
		headers, token := policy.Fields{"X-Env": {"prod"}}, policy.Token(verified{"scope": "read write"})
		noon := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
		return func() (engine, error) {
			table, peers, err := kithTable(set, asked)
			return func(i int) (bool, error) {
				facts := policy.Facts{Time: noon, Source: netip.AddrFrom4([4]byte{10, 1, 2, 3}), Headers: headers, Token: token}
				d := table.Decide(peers[i], policy.Request{Protocol: policy.HTTP, Method: asked[i].method, Path: asked[i].path, Port: 8080, Facts: &facts})
				return d.Effect == policy.Allow, nil
			}, err
		}, nil
	}
}

// newKithExplain denies what no rule allows and says which came closest.
func newKithExplain(rules []spec, asked []query) (func() (engine, error), error) {
	set, err := kithSet(rules)
	if err != nil {
		return nil, err
	}
	return func() (engine, error) {
		table, peers, err := kithTable(set, asked)
		return func(i int) (bool, error) {
			d := table.Explain(peers[i], policy.Request{Protocol: policy.HTTP, Method: "GET", Path: "/v2/elsewhere"})
			return d.Near.Rule != "", nil
		}, err
	}, nil
}

// newKithChange changes a rule of one service of a hundred, among as many services
// as give the rules: the change is checked as a server does, and the service
// compiled and swapped as an enforcement point does. With checked false only the
// latter. Each rule has a source of its own.
func newKithChange(checked bool) maker {
	return func(rules []spec, _ []query) (func() (engine, error), error) {
		td, err := spiffe.ParseTrustDomain("acme.example")
		if err != nil {
			return nil, err
		}
		const each = 100
		services := max(1, len(rules)/each)
		return func() (engine, error) {
			book := policy.NewBook(td)
			for i := range max(services, each+1) {
				name := fmt.Sprintf("svc-%d", i)
				book.PutService(policy.Service{Name: name, Identities: []string{"/eks/shop/" + name}, Protocol: policy.HTTP})
			}
			for i := range services {
				for j := range each {
					book.PutRule(changed(i, j, (i+j+1)%max(services, each+1), 1))
				}
			}
			if _, err := book.Fork().CheckWhole(book); err != nil {
				return nil, err
			}
			var current atomic.Pointer[policy.Table]
			version := 1
			return func(int) (bool, error) {
				next := book
				if checked {
					version++
					next = book.Fork()
					r := changed(0, 7, 8, version)
					next.PutRule(r)
					if _, err := next.Check(book, r.Name); err != nil {
						return false, err
					}
				}
				table, err := next.Compile("svc-0")
				current.Store(table)
				return err == nil, err
			}, nil
		}, nil
	}
}

func changed(service, number, from, version int) policy.Rule {
	return policy.Rule{
		Name: fmt.Sprintf("rule-%d-%d", service, number), To: fmt.Sprintf("svc-%d", service), From: []string{fmt.Sprintf("svc-%d", from)},
		Allow: []string{fmt.Sprintf("GET /v%d/res%d/{id}", version, number)},
	}
}

// decidingMore is what a condition adds to a decision, and what changing and
// explaining cost.
func decidingMore(ctx context.Context, b *bench) ([]figure, error) {
	names := []string{plainEngine}
	for _, c := range conditions() {
		names = append(names, c.name)
	}
	when, err := race(ctx, b, names, 10, "one")
	if err != nil {
		return nil, err
	}
	var out []figure
	without := when[plainEngine].typical()
	for _, c := range conditions() {
		with := when[c.name].typical()
		out = append(out, upTo(c.what, with.CPU-without.CPU, fmt.Sprintf("ns (%s)", number(with.Allocs)), c.goal, "",
			fmt.Sprintf("whole decision %s ns, without %s", number(with.CPU), number(without.CPU))))
	}
	for _, row := range []struct {
		engine string
		rules  int
		what   string
		goal   float64
		unit   string
		per    float64 // ns
	}{
		{"kith-explain", 100, "nearest miss, 100 rules", 10, "µs", 1e3},
		{"kith-recompile", 100, "one service of 100 rules of 100 sources recompiled and swapped", 0.3, "ms", 1e6},
		{"kith-change", 100_000, "a rule among 100 000: checked, its service recompiled and swapped", 50, "CPU-ms", 1e6},
	} {
		all, err := race(ctx, b, []string{row.engine}, row.rules, "one")
		if err != nil {
			return nil, err
		}
		out = append(out, upTo(row.what, all[row.engine].typical().CPU/row.per, row.unit, row.goal, "", ""))
	}
	return out, nil
}
