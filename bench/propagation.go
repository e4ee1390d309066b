package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/kith-id/kith/internal/pb"
)

const (
	agentCount = 1000
	fewAgents  = 10 // of them host cart as well
	// behind is how long an agent may lack a change that does not concern it.
	behind = 16 * time.Second
)

// pushed is what changes of one rule took.
type pushed struct {
	took, server, store, agents []float64 // by change
	each                        []float64 // by change and agent: until it was in force there
}

// pushing is a server with connected agents.
type pushing struct {
	*domain
	agents *helper
	count  int // of changes, so that each differs
}

// propagation times changes of one rule on a server with 1 000 agents, from the
// operator's call until each agent that it concerns decides by it, and until the
// last has acked.
func propagation(ctx context.Context, b *bench) (section, error) {
	d, err := startDomain(ctx, b, "propagation")
	if err != nil {
		return section{}, err
	}
	defer d.stop()
	n, changes := agentCount, 150
	if b.quick {
		n, changes = 100, 30
	}
	if _, err := d.apply(ctx, serviceObject("orders", "http", "orders"), serviceObject("web", "http", "web"), serviceObject("cart", "http", "cart")); err != nil {
		return section{}, err
	}
	before := memoryOf(d.server.pid())
	agents, err := startHelper(ctx, 0, "agents", filepath.Join(d.dir, "run", "admin.sock"), fmt.Sprint(n))
	if err != nil {
		return section{}, err
	}
	defer func() { _ = agents.stop() }()
	var connected int
	if err := agents.hear(&connected); err != nil {
		return section{}, err
	}
	p := &pushing{domain: d, agents: agents}
	floor, err := startFloor(ctx, d.dir, n)
	if err != nil {
		return section{}, err
	}
	defer floor.stop()
	var all, bare pushed
	for range changes / 10 {
		err := all.add(p.change(ctx, 10, "orders", n))
		if err == nil {
			err = bare.add(floor.change(10, n))
		}
		if err != nil {
			return section{}, err
		}
	}
	after := memoryOf(d.server.pid())
	some, err := p.change(ctx, changes, "cart", fewAgents)
	if err != nil {
		return section{}, err
	}
	server, store := d.serverPIDs()
	idle, err := measured(1, server, store, agents.pid(), func() error { wait(ctx, behind); return nil })
	if err != nil {
		return section{}, err
	}
	late := idle.total() / float64(changes)
	s := section{
		title: "Propagation",
		intro: propagationIntro(changes, n) + yieldingIntro(n),
		figures: append(append(all.figures(fmt.Sprintf("all %s nodes", grouped(int64(n))), &bare, "SPIRE 2.7–6.9 s for what it has", "SPIRE 3.9–8.7 s"),
			some.figures(fmt.Sprintf("%d of %s nodes", fewAgents, grouped(int64(n))), nil, "", "")...),
			times("CPU per change, all nodes, of that of gRPC alone", all.total(), bare.total(), 0, fmt.Sprintf("gRPC alone %s ms: server %s, agents %s", number(bare.total()), number(median(bare.server)), number(median(bare.agents)))),
			plain("CPU for the other nodes, later, per change", late, "ms", "", ""),
			plain("server's anonymous memory per agent", (after.Anonymous-before.Anonymous)*1024/float64(n), "KiB", "", "")),
	}
	for _, more := range []func() ([]figure, error){
		func() ([]figure, error) { return yielding(ctx, b, n, changes/3) },
		func() ([]figure, error) { return changeAmongMany(ctx, b) },
	} {
		figures, err := more()
		if err != nil {
			return section{}, err
		}
		s.figures = append(s.figures, figures...)
	}
	s.charts = []chart{untilEnforced(some, all, bare)}
	return s, nil
}

func propagationIntro(changes, n int) string {
	return fmt.Sprintf("One rule is changed %d times, one change after the other, on a `kith server` with its store on disk and %s simulated agents: real joins, mutual TLS, streams and messages, in one other process on the same cores. "+
		"Each agent compiles the service anew and swaps, as an enforcement point does, before it acks. "+
		"*Until a node decides by it* is from the operator's call until one agent has swapped, so that the next request there is decided by the new rule; the quantiles are over all pairs of a change and an agent that it concerns. "+
		"All processes read the same clock, CLOCK_MONOTONIC, with an error below a microsecond. "+
		"*To last ack* is from the call to its return, which is when the last agent that the change concerns has acked: it is what an operator waits for, and it is reported without a goal, as the goal is for an enforcement point. "+
		"In both the change is validated, audited and committed with fsync, pushed and read. "+
		"It takes longer than the network would: two cores hold the server and all %s agents, and what these use for a change, in the row of CPU, passes through two cores before the last ack; so half of that is the least it can be here, "+
		"while the agents of a fleet have cores of their own. "+
		"The worst case is a rule to a service with an enforcement point on every node. Of a service on %d nodes the others get changes later, together; what that takes in the %s after the last change is shown per change, idling included. "+
		"gRPC alone is a server that sends the same message to as many agents over mutual TLS and counts their acks: no rule, no store, no audit, and nothing compiled: there a node has it when it has read it. "+
		"The last rows are a server, an agent and a proxy, and a hundred thousand rules of a thousand services.",
		changes, grouped(int64(n)), grouped(int64(n)), fewAgents, behind)
}

// untilEnforced is the picture of it.
func untilEnforced(some, all, bare pushed) chart {
	at := func(heading string, q, goal, root, identity float64) group {
		return group{heading: heading, goal: goal, bars: []bar{
			{"a node decides by it, 10 concerned", quantile(some.each, q), true},
			{"a node decides by it, all concerned", quantile(all.each, q), true},
			{"the last of all nodes has acked", quantile(all.took, q), true},
			{"the last has acked, gRPC alone", quantile(bare.took, q), false},
			{"SPIRE, new root (anchor)", root, false},
			{"SPIRE, new identity (anchor)", identity, false},
		}}
	}
	return chart{title: "Change of a rule until enforced, 1 000 agents", unit: "ms", log: true, groups: []group{
		at("p50", 0.5, 20, 2700, 4000),
		at("p99 (SPIRE: max)", 0.99, 100, 3900, 8700),
	}}
}

// change changes a rule to a service and wants acks of so many agents.
func (p *pushing) change(ctx context.Context, changes int, to string, acks int) (pushed, error) {
	server, store := p.serverPIDs()
	return noted(changes, acks, server, store, p.agents, func() error {
		p.count++
		result, err := p.admin.Apply(ctx, &pb.ApplyRequest{Put: []*pb.Object{ruleObject("to-"+to, "web", to, fmt.Sprintf("GET /v%d/{**}", p.count))}})
		if err == nil && int(result.GetAcked()) != acks {
			err = fmt.Errorf("%d of %d agents acked, %d should", result.GetAcked(), result.GetAffected(), acks)
		}
		return err
	})
}

// floor is gRPC alone, with as many agents.
type floor struct{ server, agents *helper }

func startFloor(ctx context.Context, dir string, n int) (*floor, error) {
	if err := makeCerts(dir); err != nil {
		return nil, err
	}
	server, err := startHelper(ctx, 0, "alone", dir)
	if err != nil {
		return nil, err
	}
	var address string
	if err := server.hear(&address); err != nil {
		return nil, err
	}
	agents, err := startHelper(ctx, 0, "alone-agents", dir, address, fmt.Sprint(n))
	if err != nil {
		return nil, err
	}
	var connected int
	return &floor{server, agents}, agents.hear(&connected)
}

func (f *floor) stop() { _, _ = f.agents.stop(), f.server.stop() }

func (f *floor) change(changes, n int) (pushed, error) {
	return noted(changes, n, []int{f.server.pid()}, nil, f.agents, func() error {
		var acked int
		return f.server.ask(&acked, "%d", n)
	})
}

// noted makes so many changes, and asks the agents after each since when it is in
// force at so many of them.
func noted(changes, concerned int, server, store []int, agents *helper, do func() error) (pushed, error) {
	var out pushed
	for range changes {
		var began time.Duration
		err := out.add(measured(1, server, store, agents.pid(), func() error {
			began = monotonic()
			return do()
		}))
		var since []time.Duration
		if err == nil {
			err = agents.ask(&since, "%d", concerned)
		}
		if err != nil {
			return pushed{}, err
		}
		for i, at := range since {
			if at < began {
				return pushed{}, fmt.Errorf("agent %d acked a change that is not in force there", i)
			}
			out.each = append(out.each, ms(at-began))
		}
	}
	return out, nil
}

// measured does something so many times.
func measured(times int, server, store []int, agents int, do func() error) (pushed, error) {
	return measuredOn(times, server, store, []int{agents}, do)
}

// measuredOn is measured with more than one process beside server and store.
func measuredOn(times int, server, store, agents []int, do func() error) (pushed, error) {
	var out pushed
	for range times {
		c, st, a := cpuOf(server...), cpuOf(store...), cpuOf(agents...)
		began := time.Now()
		if err := do(); err != nil {
			return pushed{}, err
		}
		out.took, out.server = append(out.took, ms(time.Since(began))), append(out.server, ms(cpuOf(server...)-c))
		out.store, out.agents = append(out.store, ms(cpuOf(store...)-st)), append(out.agents, ms(cpuOf(agents...)-a))
	}
	return out, nil
}

func (p *pushed) add(more pushed, err error) error {
	p.took, p.server = append(p.took, more.took...), append(p.server, more.server...)
	p.store, p.agents = append(p.store, more.store...), append(p.agents, more.agents...)
	p.each = append(p.each, more.each...)
	return err
}

// total is the processor time of everybody, as medians.
func (p pushed) total() float64 { return median(p.server) + median(p.store) + median(p.agents) }

// figures stand beside what gRPC alone took, where that was measured.
func (p pushed) figures(concerns string, bare *pushed, anchor50, anchor99 string) []figure {
	beside := func(of func(*pushed) []float64, q float64) string {
		if bare == nil {
			return ""
		}
		return "gRPC alone " + number(quantile(of(bare), q))
	}
	each, took := func(p *pushed) []float64 { return p.each }, func(p *pushed) []float64 { return p.took }
	parts := fmt.Sprintf("server %s, store %s, all agents together %s", number(median(p.server)), number(median(p.store)), number(median(p.agents)))
	return []figure{
		upTo("change until a node decides by it, "+concerns+", p50", quantile(p.each, 0.5), "ms", 20, anchor50, beside(each, 0.5)),
		upTo("change until a node decides by it, "+concerns+", p99", quantile(p.each, 0.99), "ms", 100, anchor99, beside(each, 0.99)),
		plain("change to last ack, "+concerns+", p50", quantile(p.took, 0.5), "ms", "", beside(took, 0.5)),
		plain("change to last ack, "+concerns+", p99", quantile(p.took, 0.99), "ms", "", beside(took, 0.99)),
		upTo("CPU per change, "+concerns, p.total(), "ms", 100, "", parts),
	}
}
