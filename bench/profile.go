package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// loadRole keeps one way to the backend under one kind of load and says who
// serves it, so that a profiler can look. With several binaries they take turns,
// which tells a change of a few per cent from what else the machine does:
//
//	kith-bench load -kith ../bin/kith -for 30s kith requests
//	perf record -g -p <pids> -- sleep 10; strace -c -f -p <pid>
//	kith-bench load -kith /tmp/before,/tmp/after -for 60s kith bytes
//	kith-bench load -for 60s sdk,go requests
func loadRole(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	binaries := flags.String("kith", "../bin/kith", "the kith binaries, comma-separated")
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
		return fmt.Errorf("load kith|nginx|direct|plain|sdk|go requests|bytes|connections|paced, got %q", flags.Args())
	}
	var targets []*target
	for _, binary := range strings.Split(*binaries, ",") {
		for _, way := range strings.Split(flags.Arg(0), ",") {
			t, stop, err := loadTarget(ctx, binary, way)
			if err != nil {
				return err
			}
			defer stop()
			fmt.Println(binary, t.name, "is served by", t.pids)
			targets = append(targets, t)
		}
	}
	all := make([][]float64, len(targets))
	for began := time.Now(); time.Since(began) < *d && ctx.Err() == nil; {
		line := ""
		for i, t := range targets {
			value, unit, err := load(t)
			if err != nil {
				return err
			}
			all[i] = append(all[i], value)
			line += fmt.Sprintf("%.4g (median %.4g) CPU-%s  ", value, median(all[i]), unit)
		}
		fmt.Println(line)
	}
	return nil
}

// loadTarget starts what is needed for one way to the backend.
func loadTarget(ctx context.Context, binary, name string) (t *target, stop func(), err error) {
	b := &bench{}
	if b.kith, err = filepath.Abs(binary); err != nil {
		return nil, nil, err
	}
	if b.work, err = os.MkdirTemp("", "kb"); err != nil {
		return nil, nil, err
	}
	p, err := startPairs(ctx, b)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(b.work))
	}
	stop = func() {
		p.stop()
		os.RemoveAll(b.work)
	}
	for _, t := range slices.Concat(p.targets, p.inside) {
		if t.name == name {
			return t, stop, nil
		}
	}
	stop()
	return nil, nil, fmt.Errorf("no way %q", name)
}
