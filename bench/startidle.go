package main

import (
	"context"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/pb"
)

// chunk is how many objects one change of applied state carries; the server
// takes 6 000.
const chunk = 5000

// startAndIdle measures programs that have nothing to do, and a server that
// starts with 100 000 static identities.
func startAndIdle(ctx context.Context, b *bench) (section, error) {
	s := section{
		title: "Start and idle",
		intro: "Memory is `Anonymous` of `smaps_rollup`, with RSS beside it: the rest of RSS is the program file, shared by all of Kith's processes. " +
			"A static identity is a service with one identity and the user who may claim it (`run_as`); it is what one SPIRE entry is. Workloads that a template covers need none. " +
			"They are applied in changes of 5 000, each committed with fsync.",
	}
	idle, charts, err := idlePrograms(ctx, b)
	if err != nil {
		return section{}, err
	}
	many, manyCharts, err := manyIdentities(ctx, b)
	if err != nil {
		return section{}, err
	}
	s.figures = append(idle, many...)
	s.charts = append(charts, manyCharts...)
	return s, nil
}

// idlePrograms looks at each program some seconds after its start.
func idlePrograms(ctx context.Context, b *bench) ([]figure, []chart, error) {
	d, err := startDomain(ctx, b, "idle")
	if err != nil {
		return nil, nil, err
	}
	defer d.stop()
	if _, err := d.apply(ctx, serviceObject("orders", "http", "root")); err != nil {
		return nil, nil, err
	}
	if err := d.startAgent(ctx); err != nil {
		return nil, nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	at := fmt.Sprintf("127.0.0.1:%d", port)
	proxy, err := start(ctx, d.env, d.dir, b.kith, "proxy", "--as", "orders", "--expose", at+"=127.0.0.1:9", "--log-level", "warn")
	if err != nil {
		return nil, nil, err
	}
	defer proxy.stop()
	if err := proxy.accepts("tcp", at); err != nil {
		return nil, nil, err
	}
	server, store := d.serverPIDs()
	programs := []struct {
		name   string
		pids   []int
		goal   float64
		anchor string
	}{
		{"server", server, 40, "SPIRE server 108 MiB RSS"},
		{"store, the server's child", store, 0, ""},
		{"agent", []int{d.agent.pid()}, 20, "SPIRE agent 59 MiB RSS"},
		{"proxy", []int{proxy.pid()}, 12, ""},
	}
	wait(ctx, b.scaled(4*time.Second))
	var figures []figure
	plot := chart{title: "Anonymous memory, idle", unit: "MiB"}
	before := make([]time.Duration, len(programs))
	began := time.Now()
	for i, p := range programs {
		before[i] = cpuOf(p.pids...)
	}
	wait(ctx, b.scaled(8*time.Second))
	for i, p := range programs {
		m, share := memoryOf(p.pids...), float64(cpuOf(p.pids...)-before[i])/float64(time.Since(began))
		f := upTo("idle "+p.name+", anonymous", m.Anonymous, "MiB", p.goal, p.anchor, fmt.Sprintf("RSS %s MiB, %.4f cores", number(m.RSS), share))
		figures = append(figures, f)
		plot.groups = append(plot.groups, group{goal: p.goal, bars: []bar{{p.name, m.Anonymous, true}, {p.name + ", RSS", m.RSS, false}}})
	}
	return figures, []chart{plot}, nil
}

// wait lets time pass.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// manyIdentities loads static identities, and starts the server again on them.
func manyIdentities(ctx context.Context, b *bench) ([]figure, []chart, error) {
	total := 100_000
	if b.quick {
		total = 15_000
	}
	d, err := startDomain(ctx, b, "many")
	if err != nil {
		return nil, nil, err
	}
	defer d.stop()
	server, store := d.serverPIDs()
	before, beforeStore, began := cpuOf(server...), cpuOf(store...), time.Now()
	for i := 0; i < total; i += chunk {
		req := &pb.ApplyRequest{Owner: "bench"}
		for j := i; j < min(i+chunk, total); j++ {
			req.Put = append(req.Put, serviceObject(fmt.Sprintf("service-%d", j), "http", fmt.Sprintf("user-%d", j)))
		}
		if _, err := d.admin.Apply(ctx, req); err != nil {
			return nil, nil, fmt.Errorf("apply from %d on: %w", i, err)
		}
	}
	loadTook := time.Since(began).Seconds()
	loadCPU, loadStore := (cpuOf(server...) - before).Seconds(), (cpuOf(store...) - beforeStore).Seconds()
	wait(ctx, b.scaled(2*time.Second))
	d.server.stop()
	began = time.Now()
	if err := d.startServer(ctx); err != nil {
		return nil, nil, err
	}
	cold := time.Since(began).Seconds()
	server, store = d.serverPIDs()
	coldCPU := cpuOf(server...).Seconds()
	wait(ctx, b.scaled(8*time.Second)) // the store settles some seconds after a start, and then collects its garbage once
	idle, from := cpuOf(server...)+cpuOf(store...), time.Now()
	wait(ctx, b.scaled(12*time.Second))
	share := float64(cpuOf(server...)+cpuOf(store...)-idle) / float64(time.Since(from))
	m, ms := memoryOf(server...), memoryOf(store...)
	name := grouped(int64(total)) + " static identities"
	figures := []figure{
		upTo("load "+name, loadTook, "s", 10, "SPIRE 590 s", fmt.Sprintf("CPU-s: server %s, store %s", number(loadCPU), number(loadStore))),
		upTo("cold start with "+name, cold, "s", 2, "SPIRE 10.5 s", fmt.Sprintf("server's CPU %s s", number(coldCPU))),
		upTo("server's RSS with "+name, m.RSS, "MiB", 150, "SPIRE 306 MiB, 418 at its peak", fmt.Sprintf("anonymous %s; store: RSS %s, anonymous %s MiB", number(m.Anonymous), number(ms.RSS), number(ms.Anonymous))),
		upTo("idle with "+name+", server and store", share, "cores", 0.005, "SPIRE 0.46", ""),
	}
	charts := []chart{{title: "With " + name, unit: "", log: true, groups: []group{
		{heading: "load, s", goal: 10, bars: []bar{{"kith", loadTook, true}, {"SPIRE (anchor)", 590, false}}},
		{heading: "cold start, s", goal: 2, bars: []bar{{"kith", cold, true}, {"SPIRE (anchor)", 10.5, false}}},
		{heading: "RSS, MiB", goal: 150, bars: []bar{{"kith server", m.RSS, true}, {"SPIRE server (anchor)", 306, false}}},
	}}}
	return figures, charts, nil
}
