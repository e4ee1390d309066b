// Command bench measures Kith against its goals and against what else does the
// same work, in one run, and writes docs/performance.md with its plots.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// bench is what a section needs to know of the run.
type bench struct {
	kith  string // the binary
	work  string // a directory of this run
	quick bool
}

// part is a section that can be measured.
type part struct {
	name    string
	measure func(context.Context, *bench) (section, error)
}

func parts() []part {
	return []part{
		{"issuing", issuing},
		{"deciding", deciding},
		{"propagation", propagation},
		{"workload-api", workloadAPI},
		{"data-plane", dataPlane},
		{"start-and-idle", startAndIdle},
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) > 1 {
		if role, ok := roles()[os.Args[1]]; ok {
			return role(ctx, os.Args[2:])
		}
	}
	b := &bench{}
	flag.StringVar(&b.kith, "kith", "../bin/kith", "the kith binary")
	flag.BoolVar(&b.quick, "quick", false, "short slices, for work on the benchmarks themselves")
	out := flag.String("o", "", "write the report here, its plots beside it")
	only := flag.String("only", "", "comma-separated sections")
	flag.Parse()
	var err error
	if b.kith, err = filepath.Abs(b.kith); err != nil {
		return err
	}
	if b.work, err = os.MkdirTemp("", "kb"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	if err := os.Chmod(b.work, 0o755); err != nil { // other users' clients come in here
		return err
	}
	began, self := time.Now(), load()
	before, stolenBefore := busy()
	names, sections, err := b.measure(ctx, *only)
	if err != nil {
		return err
	}
	took := time.Since(began)
	used, stolen := busy()
	all, ours, away := float64(used-before)/float64(took), float64(familyCPU())/float64(took), float64(stolen-stolenBefore)/float64(took)
	head := fmt.Sprintf(header, machine(), began.UTC().Format("2006-01-02"), took.Round(time.Second), self, ours, max(all-ours, 0), away)
	if *out == "" {
		fmt.Print(head)
		for _, name := range names {
			fmt.Print(sections[name].markdown(name))
		}
		return nil
	}
	return write(*out, head, names, sections)
}

const header = `# Performance

<!-- Written by make bench; do not edit. -->

Measured by ` + "`make bench`" + ` on %s, on %s, in %s.
At the start the load average was %s; during the run this run used %.2f cores, everything else on the machine %.2f, and its host gave %.2f to others meanwhile. The more that is, the less absolute figures mean.

Each figure stands beside its goal, what was measured in the same run, and an anchor measured before on a like machine (2-core VM, Go 1.26, Debian 12).
Absolute figures move with the machine and what else it does; ratios in one run are what counts. CPU time is that of the processes (getrusage, or the
process's CPU clock), and what is compared takes turns, slice by slice. A goal that is missed says so.

`

func (b *bench) measure(ctx context.Context, only string) ([]string, map[string]section, error) {
	if _, err := os.Stat(b.kith); err != nil {
		return nil, nil, fmt.Errorf("%w (make build makes it)", err)
	}
	wanted := strings.FieldsFunc(only, func(r rune) bool { return r == ',' })
	var names []string
	sections := map[string]section{}
	for _, p := range parts() {
		if len(wanted) > 0 && !slices.Contains(wanted, p.name) {
			continue
		}
		began := time.Now()
		s, err := p.measure(ctx, b)
		if ctx.Err() != nil {
			return nil, nil, errors.New("interrupted")
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", p.name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", p.name, time.Since(began).Round(100*time.Millisecond))
		names = append(names, p.name)
		sections[p.name] = s
	}
	return names, sections, nil
}

// dir is a new directory of this run.
func (b *bench) dir(name string) (string, error) {
	dir := filepath.Join(b.work, name)
	return dir, os.MkdirAll(dir, 0o755)
}

// scaled is a time, a quarter of it in a quick run.
func (b *bench) scaled(d time.Duration) time.Duration {
	if b.quick {
		return d / 4
	}
	return d
}

// roles are what this binary does when a section starts it as another process.
func roles() map[string]func(context.Context, []string) error {
	return map[string]func(context.Context, []string) error{
		"engine": engineRole,

		"conditions": conditionsRole,
		"agents":     agentsRole,
		"alone":      aloneRole,

		"alone-agents": aloneAgentsRole,
		"streams":      streamsRole,
		"connections":  connectionsRole,
		"first":        firstRole,
		"backend":      backendRole,
		"bare":         bareRole,
		"load":         loadRole,
		"fetchload":    fetchLoadRole,
		"inside":       insideRole,
	}
}
