package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/pb"
)

const (
	manyServices = 1000
	rulesOfEach  = 100
	// cached is longer than an agent gathers changes before it writes its cache.
	cached = 500 * time.Millisecond
)

// changeAmongMany changes one rule among 100 000 on a real server, agent and
// proxy, and counts the processor time of all of them.
func changeAmongMany(ctx context.Context, b *bench) ([]figure, error) {
	services := manyServices
	if b.quick {
		services /= 10
	}
	d, err := startDomain(ctx, b, "change")
	if err != nil {
		return nil, err
	}
	defer d.stop()
	if err := d.fill(ctx, services); err != nil {
		return nil, err
	}
	if err := d.startAgent(ctx); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	at := fmt.Sprintf("127.0.0.1:%d", port)
	proxy, err := start(ctx, d.env, d.dir, b.kith, "proxy", "--as", "service-7", "--expose", at+"=127.0.0.1:9", "--log-level", "warn")
	if err != nil {
		return nil, err
	}
	defer proxy.stop()
	if err := proxy.accepts("tcp", at); err != nil {
		return nil, err
	}
	server, store := d.serverPIDs()
	nodes := []int{d.agent.pid(), proxy.pid()}
	var live pushed
	var later []float64
	for n := range 31 {
		one, err := measuredOn(1, server, store, nodes, func() error { return d.changeOne(ctx, services, n) })
		if err != nil {
			return nil, err
		}
		before := cpuOf(server...) + cpuOf(store...) + cpuOf(nodes...)
		wait(ctx, cached)
		if n == 0 { // the first change is checked as a whole
			continue
		}
		later = append(later, ms(cpuOf(server...)+cpuOf(store...)+cpuOf(nodes...)-before))
		if err := live.add(one, nil); err != nil {
			return nil, err
		}
	}
	rules := grouped(int64(services * rulesOfEach))
	return []figure{
		upTo("CPU of a change of one rule among "+rules+", until the proxy decides by it", live.total(), "ms", 50, "",
			fmt.Sprintf("server %s, store %s, agent and proxy %s", number(median(live.server)), number(median(live.store)), number(median(live.agents)))),
		plain("CPU in the half second after it: cache, audit", median(later), "ms", "", ""),
	}, nil
}

// fill applies services with a hundred rules each.
func (d *domain) fill(ctx context.Context, services int) error {
	var put []*pb.Object
	for i := range services {
		put = append(put, serviceObject(fmt.Sprintf("service-%d", i), "http", "root"))
	}
	for i := range services {
		for j := range rulesOfEach {
			put = append(put, ruleAmongMany(services, i, j, 0))
		}
	}
	for len(put) > 0 {
		n := min(len(put), chunk)
		if _, err := d.admin.Apply(ctx, &pb.ApplyRequest{Owner: "bench", Put: put[:n]}); err != nil {
			return fmt.Errorf("apply with %d objects to go: %w", len(put), err)
		}
		put = put[n:]
	}
	return nil
}

func ruleAmongMany(services, service, number, version int) *pb.Object {
	return ruleObject(fmt.Sprintf("rule-%d-%d", service, number), fmt.Sprintf("service-%d", (service+number+1)%services), fmt.Sprintf("service-%d", service),
		fmt.Sprintf("GET /v%d/resource-%d/{id}", version, number))
}

// changeOne changes a rule of the service that is served here.
func (d *domain) changeOne(ctx context.Context, services, n int) error {
	result, err := d.admin.Apply(ctx, &pb.ApplyRequest{Owner: "bench", Put: []*pb.Object{ruleAmongMany(services, 7, 7, n+1)}})
	if err == nil && (result.GetAcked() != 1 || len(result.GetLaggards()) > 0) {
		err = errors.New("the proxy did not ack the change")
	}
	return err
}
