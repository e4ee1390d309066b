package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// loadRole keeps one way to the backend under one kind of load and says who
// serves it, so that a profiler can look:
//
//	kith-bench load -kith ../bin/kith -for 30s kith requests
//	perf record -g -p <pids> -- sleep 10; strace -c -f -p <pid>
func loadRole(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	b := &bench{}
	flags.StringVar(&b.kith, "kith", "../bin/kith", "the kith binary")
	d := flags.Duration("for", 30*time.Second, "how long")
	if err := flags.Parse(args); err != nil {
		return err
	}
	loads := map[string]func(*target) (float64, string, error){
		"requests": func(t *target) (float64, string, error) {
			cpu, _, err := t.requests(ctx, 16, time.Second)
			return cpu, "µs a request", err
		},
		"bytes": func(t *target) (float64, string, error) {
			cpu, _, err := t.transfer(400 << 20)
			return cpu, "s a GB", err
		},
		"connections": func(t *target) (float64, string, error) {
			cpu, err := t.connections(200)
			return cpu, "ms a connection", err
		},
		"paced": func(t *target) (float64, string, error) {
			took, err := t.paced(ctx, 16, 1000, time.Second)
			return quantile(took, 0.5), "ms at the median", err
		},
	}
	load, ok := loads[flags.Arg(1)]
	if !ok {
		return fmt.Errorf("load kith|nginx|direct|plain requests|bytes|connections|paced, got %q", flags.Args())
	}
	var err error
	if b.kith, err = filepath.Abs(b.kith); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "kb"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	p, err := startPairs(ctx, b)
	if err != nil {
		return err
	}
	defer p.stop()
	for _, t := range p.targets {
		if t.name != flags.Arg(0) {
			continue
		}
		fmt.Println(t.name, "is served by", t.pids)
		for began := time.Now(); time.Since(began) < *d && ctx.Err() == nil; {
			value, unit, err := load(t)
			if err != nil {
				return err
			}
			fmt.Printf("%.4g CPU-%s\n", value, unit)
		}
	}
	return nil
}
