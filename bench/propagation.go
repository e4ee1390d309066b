package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/kith-id/kith/internal/pb"
)

const agentCount = 1000

// propagation times changes of one rule on a server with 1 000 agents, from the
// operator's call until the last agent has acked.
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
	if _, err := d.apply(ctx, serviceObject("orders", "http", "orders"), serviceObject("web", "http", "web")); err != nil {
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
	server, store := d.serverPIDs()
	var took, cpu, storeCPU, theirs []float64
	for i := range changes {
		c, st, a := cpuOf(server...), cpuOf(store...), cpuOf(agents.pid())
		began := time.Now()
		result, err := d.admin.Apply(ctx, &pb.ApplyRequest{Put: []*pb.Object{ruleObject("r", "web", "orders", fmt.Sprintf("GET /v%d/{**}", i))}})
		if err != nil {
			return section{}, err
		}
		if int(result.GetAcked()) != n {
			return section{}, fmt.Errorf("%d of %d agents acked", result.GetAcked(), n)
		}
		took = append(took, ms(time.Since(began)))
		cpu, storeCPU, theirs = append(cpu, ms(cpuOf(server...)-c)), append(storeCPU, ms(cpuOf(store...)-st)), append(theirs, ms(cpuOf(agents.pid())-a))
	}
	after := memoryOf(d.server.pid())
	p50, p99 := quantile(took, 0.5), quantile(took, 0.99)
	s := section{
		title: "Propagation",
		intro: fmt.Sprintf("One rule is changed %d times, one change after the other, on a `kith server` with its store on disk and %s simulated agents: real joins, mutual TLS, streams and messages, in one other process on the same cores. "+
			"Time is from the operator's call to its return, which is when the last agent has acked: the change is validated, audited and committed with fsync, pushed, read and acked in it.", changes, grouped(int64(n))),
		figures: []figure{
			upTo("change to last ack, p50", p50, "ms", 20, "SPIRE 2.7–6.9 s for what it has", ""),
			upTo("change to last ack, p99", p99, "ms", 100, "SPIRE 3.9–8.7 s", ""),
			plain("server's CPU per change", median(cpu), "ms", "", fmt.Sprintf("store %s, all agents together %s", number(median(storeCPU)), number(median(theirs)))),
			plain("server's anonymous memory per agent", (after.Anonymous-before.Anonymous)*1024/float64(n), "KiB", "", ""),
		},
	}
	s.charts = []chart{{title: "Change of a rule until enforced everywhere, 1 000 agents", unit: "ms", log: true, groups: []group{
		{heading: "p50", goal: 20, bars: []bar{{"kith", p50, true}, {"SPIRE, new root (anchor)", 2700, false}, {"SPIRE, new identity (anchor)", 4000, false}}},
		{heading: "p99 (SPIRE: max)", goal: 100, bars: []bar{{"kith", p99, true}, {"SPIRE, new root (anchor)", 3900, false}, {"SPIRE, new identity (anchor)", 8700, false}}},
	}}}
	return s, nil
}
