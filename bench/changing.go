package main

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

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
	out, err := conditionFigures(ctx, b)
	if err != nil {
		return nil, err
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
		all, err := race(ctx, b, several(row.engine), row.rules, "one")
		if err != nil {
			return nil, err
		}
		typical, spread := typicalOf(all, row.engine, row.per)
		out = append(out, upTo(row.what, typical.CPU/row.per, row.unit, row.goal, "", spread))
	}
	return out, nil
}
