package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fetchLoadRole has agents of several binaries, and gRPC alone, asked in turn, which
// tells a change of a few per cent from what else the machine does; it says who
// serves, so that a profiler can look:
//
//	kith-bench fetchload -kith /tmp/before,/tmp/after -for 30s svid
//	kith-bench fetchload -kith /tmp/before,/tmp/after token
//	kith-bench fetchload -kith /tmp/before,/tmp/after streams
func fetchLoadRole(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fetchload", flag.ContinueOnError)
	binaries := flags.String("kith", "../bin/kith", "the kith binaries, comma-separated")
	d := flags.Duration("for", 30*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	asked, stop, err := askedAgents(ctx, strings.Split(*binaries, ","))
	defer stop()
	if err != nil {
		return err
	}
	svids := func(e endpoint) error { return parallelN(200, 8, func(int) error { return e.fetch(ctx) }) }
	tokens := func(e endpoint) error { return e.fetchJWTs(ctx, 1000) }
	switch flags.Arg(0) {
	case "svid":
		return asked.turns(ctx, *d, 200, svids)
	case "token":
		return asked.turns(ctx, *d, 1000, tokens)
	case "streams":
		for _, a := range asked { // as warm as in the section
			for range 9 {
				if err := errors.Join(svids(a.endpoint), tokens(a.endpoint)); err != nil {
					return err
				}
			}
			f, err := fanOut(ctx, a.endpoint)
			if err != nil {
				return err
			}
			fmt.Printf("%s: %.1f KiB a stream; fan-out: %.1f CPU-ms, %.1f ms from first to last\n", a.name, f.each, median(f.cpu), median(f.spans))
		}
		return nil
	}
	return fmt.Errorf("fetchload svid|token|streams, got %q", flags.Args())
}

// agentAsked is an endpoint that is compared.
type agentAsked struct {
	name string
	endpoint
}

type agentsAsked []agentAsked

// askedAgents starts an agent of each binary, and gRPC alone.
func askedAgents(ctx context.Context, binaries []string) (out agentsAsked, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, s := range stops {
			defer s() // last started first
		}
	}
	for i, binary := range binaries {
		b := &bench{}
		if b.kith, err = filepath.Abs(binary); err != nil {
			return nil, stop, err
		}
		if b.work, err = os.MkdirTemp("", "kb"); err != nil {
			return nil, stop, err
		}
		stops = append(stops, func() { os.RemoveAll(b.work) })
		if err := os.Chmod(b.work, 0o755); err != nil { // other users' clients come in here
			return nil, stop, err
		}
		d, err := startDomain(ctx, b, "fetch")
		if err != nil {
			return nil, stop, err
		}
		stops = append(stops, d.stop)
		if _, err := d.apply(ctx, identityObject("uid", "/vms/u{workload.unix.uid}")); err != nil {
			return nil, stop, err
		}
		if err := d.startAgent(ctx); err != nil {
			return nil, stop, err
		}
		agent := endpoint{d.agentSocket(), d.agent}
		if i == 0 {
			_, floor, stopFloor, err := both(ctx, d)
			if err != nil {
				return nil, stop, err
			}
			stops = append(stops, stopFloor)
			out = append(out, agentAsked{"only gRPC", floor})
		}
		if err := d.agent.until(10*time.Second, func() error { return agent.fetch(ctx) }); err != nil { // until it has the rules
			return nil, stop, err
		}
		out = append(out, agentAsked{binary, agent})
	}
	for _, a := range out {
		fmt.Println(a.name, "is served by", a.program.pid())
	}
	return out, stop, nil
}

// turns has each of them asked n things at a time, in turn, and says what one costs.
func (all agentsAsked) turns(ctx context.Context, d time.Duration, n int, ask func(endpoint) error) error {
	cpu := make([][]float64, len(all))
	for began, round := time.Now(), 0; time.Since(began) < d && ctx.Err() == nil; round++ {
		for i, a := range all {
			before := cpuOf(a.program.pid())
			if err := ask(a.endpoint); err != nil {
				return err
			}
			if round > 0 { // the first one finds everything cold
				cpu[i] = append(cpu[i], ms(cpuOf(a.program.pid())-before)/float64(n))
			}
		}
	}
	for i, a := range all {
		if len(cpu[i]) > 0 {
			fmt.Printf("%s: %.4f CPU-ms at the median of %d rounds, a quarter below %.4f\n", a.name, median(cpu[i]), len(cpu[i]), quantile(cpu[i], 0.25))
		}
	}
	return nil
}
