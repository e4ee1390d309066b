package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// loaded is what loading the rules cost an engine.
type loaded struct {
	Seconds, CPU float64 // s
	Heap         float64 // MB that stay
}

// slice is what some decisions cost an engine.
type sliced struct {
	Wall, CPU float64 // ns each
	Allocs    float64 // each
}

// engineRole is one engine in a process of its own, so that its heap is its own:
// engine <name> <rules> <one|many>. It says what loading cost and then, for each
// line of its standard input, decides for so many milliseconds.
func engineRole(_ context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("engine NAME RULES one|many")
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	rules, sources := specs(n, args[2] == "one")
	asked := queries(n, sources)
	load, err := makers()[args[0]](rules, asked)
	if err != nil {
		return err
	}
	before := heap()
	began, cpu := time.Now(), selfCPU()
	decide, err := load()
	if err != nil {
		return err
	}
	took, spent := time.Since(began), selfCPU()-cpu
	allowed := 0
	for i := range asked {
		ok, err := decide(i)
		if err != nil {
			return err
		}
		if ok {
			allowed++
		}
	}
	if allowed*2 < len(asked) {
		return fmt.Errorf("%s allows %d of %d", args[0], allowed, len(asked))
	}
	after := heap()
	runtime.KeepAlive(rules)
	runtime.KeepAlive(decide)
	runtime.KeepAlive(load) // and with it what the rules were loaded from, in both figures
	say := json.NewEncoder(os.Stdout)
	if err := say.Encode(loaded{took.Seconds(), spent.Seconds(), (after - before) / 1e6}); err != nil {
		return err
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		millis, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		if err := say.Encode(decideFor(decide, len(asked), time.Duration(millis)*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

func decideFor(decide engine, n int, d time.Duration) sliced {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	count, began, cpu := 0, time.Now(), selfCPU()
	for time.Since(began) < d {
		for range 32 {
			_, _ = decide(count % n)
			count++
		}
	}
	wall, spent := time.Since(began), selfCPU()-cpu
	runtime.ReadMemStats(&after)
	each := float64(count)
	return sliced{float64(wall.Nanoseconds()) / each, float64(spent.Nanoseconds()) / each, float64(after.Mallocs-before.Mallocs) / each}
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// engineProcess is the other end of engineRole.
type engineProcess struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *json.Decoder
	loaded loaded
	slices []sliced
}

func startEngine(ctx context.Context, name string, rules int, pairs string) (*engineProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	engine, _, _ := strings.Cut(name, again)
	e := &engineProcess{name: name, cmd: exec.CommandContext(ctx, self, "engine", engine, strconv.Itoa(rules), pairs)}
	e.cmd.Stderr = os.Stderr
	if e.in, err = e.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	e.out = json.NewDecoder(out)
	return e, nil
}

func (e *engineProcess) slice(d time.Duration) error {
	if _, err := fmt.Fprintln(e.in, d.Milliseconds()); err != nil {
		return err
	}
	var s sliced
	if err := e.out.Decode(&s); err != nil {
		return err
	}
	e.slices = append(e.slices, s)
	return nil
}

func (e *engineProcess) stop() error {
	e.in.Close()
	return e.cmd.Wait()
}

// typical is the median slice, by CPU time.
func (e *engineProcess) typical() sliced {
	var wall, cpu, allocs []float64
	for _, s := range e.slices {
		wall, cpu, allocs = append(wall, s.Wall), append(cpu, s.CPU), append(allocs, s.Allocs)
	}
	return sliced{median(wall), median(cpu), median(allocs)}
}

// again stands between an engine and a number where it has several processes in a
// race. How memory happens to be laid out moves a decision by a tenth and more.
const again = "#"

// several is an engine's processes in a race, the first under its own name.
func several(engine string) []string {
	names := []string{engine}
	for i := 2; i <= 5; i++ {
		names = append(names, engine+again+strconv.Itoa(i))
	}
	return names
}

// typicalOf is the median of what is typical of an engine's processes, and from
// where to where they are, in a unit of so many nanoseconds.
func typicalOf(all map[string]*engineProcess, engine string, unit float64) (of sliced, spread string) {
	var wall, cpu, allocs []float64
	for _, name := range several(engine) {
		s := all[name].typical()
		wall, cpu, allocs = append(wall, s.Wall), append(cpu, s.CPU), append(allocs, s.Allocs)
	}
	return sliced{median(wall), median(cpu), median(allocs)}, fmt.Sprintf("%d processes: %s to %s", len(cpu), number(slices.Min(cpu)/unit), number(slices.Max(cpu)/unit))
}

// race loads engines with the same rules and lets them decide in turn.
func race(ctx context.Context, b *bench, names []string, rules int, pairs string) (map[string]*engineProcess, error) {
	all := map[string]*engineProcess{}
	defer func() {
		for _, e := range all {
			_ = e.stop()
		}
	}()
	for _, name := range names {
		e, err := startEngine(ctx, name, rules, pairs)
		if err != nil {
			return nil, err
		}
		all[name] = e
	}
	for _, name := range names { // they load beside each other: what counts is CPU time
		if err := all[name].out.Decode(&all[name].loaded); err != nil {
			return nil, fmt.Errorf("engine %s, %d rules: %w", name, rules, err)
		}
	}
	for range 5 {
		for _, name := range names {
			if err := all[name].slice(b.scaled(120 * time.Millisecond)); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// deciding compares engines on the same rules and requests.
func deciding(ctx context.Context, b *bench) (section, error) {
	s := section{
		title: "Deciding",
		intro: "One decision on rules that each name a source, a destination, methods and a path; one source for each 100 rules, one rule in 20 denies. " +
			"All engines get the same rules and the same 1 024 requests, each engine in a process of its own, in turn, in its best form: " +
			"OPA with every condition an equality its rule index can use and the input parsed, Cedar with policies sliced by principal by hand, CEL compiled and in buckets by source and destination. " +
			"Kith's caller is resolved, as it is once per connection. Times are CPU per decision; allocations in brackets. " +
			"What is Kith's alone is the median of five processes, as how memory happens to be laid out in one moves them by a tenth and more. " +
			"A condition's cost is what it adds to the same decision without one: one process decides the same 1 024 requests by a table with it on each of its ten rules and by one without, " +
			"2 048 decisions of either in turn (16 384 where they allocate); the figure is the median of the differences of neighbours, and of nine processes that is the median, with the least and the greatest beside it. " +
			"Each decision evaluates the condition once; callers, methods, addresses, header fields and tokens differ from request to request, one request in 16 does not meet it and is denied by the one table and allowed by the other, and each process checks all decisions first. " +
			"Facts are gathered in both. A condition is native where it compares one fact with a literal, as steps where it is another of the shapes that Kith evaluates itself, exactly as CEL's interpreter would; that does the rest.",
	}
	sizes := []int{10, 1000, 100_000}
	goals := []float64{120, 120, 250}
	anchors := []string{"OPA 21 µs, Cedar 15 µs, CEL 1.1 µs", "OPA 32 µs, Cedar 21 µs, CEL 2.7 µs", "OPA 38 µs, Cedar 40 µs, CEL 20 µs"}
	plot := chart{title: "CPU per decision", unit: "ns", log: true}
	var last map[string]*engineProcess
	for i, n := range sizes {
		all, err := race(ctx, b, append(several("kith"), "cel", "cedar", "opa"), n, "many")
		if err != nil {
			return section{}, err
		}
		ours, spread := typicalOf(all, "kith", 1)
		s.figures = append(s.figures, upTo(grouped(int64(n))+" rules", ours.CPU, fmt.Sprintf("ns (%s)", number(ours.Allocs)), goals[i], anchors[i],
			fmt.Sprintf("%s; CEL %s, Cedar %s, OPA %s", spread, all["cel"].text(), all["cedar"].text(), all["opa"].text())))
		plot.groups = append(plot.groups, group{heading: grouped(int64(n)) + " rules", goal: goals[i], bars: []bar{
			{"kith", ours.CPU, true},
			{"CEL, bucketed", all["cel"].typical().CPU, false},
			{"Cedar, sliced by hand", all["cedar"].typical().CPU, false},
			{"OPA, rule-indexed", all["opa"].typical().CPU, false},
		}})
		last = all
	}
	extra, err := decidingAlone(ctx, b)
	if err != nil {
		return section{}, err
	}
	more, err := decidingMore(ctx, b)
	if err != nil {
		return section{}, err
	}
	s.figures = append(append(s.figures, extra...), more...)
	ours := last["kith"].loaded
	s.figures = append(s.figures,
		upTo("load 100 000 rules", ours.CPU, "CPU-s", 0.25, "OPA 15.7 s, Cedar 4.0 s, CEL 14.6 s",
			fmt.Sprintf("CEL %s, Cedar %s, OPA %s CPU-s", number(last["cel"].loaded.CPU), number(last["cedar"].loaded.CPU), number(last["opa"].loaded.CPU))),
		upTo("heap of 100 000 rules", ours.Heap, "MB", 15, "OPA 1 117 MB, Cedar 160 MB, CEL 253 MB",
			fmt.Sprintf("CEL %s, Cedar %s, OPA %s MB", number(last["cel"].loaded.Heap), number(last["cedar"].loaded.Heap), number(last["opa"].loaded.Heap))))
	s.charts = []chart{plot, {title: "Heap of 100 000 rules", unit: "MB", log: true, groups: []group{{goal: 15, bars: []bar{
		{"kith", ours.Heap, true}, {"CEL", last["cel"].loaded.Heap, false}, {"Cedar", last["cedar"].loaded.Heap, false}, {"OPA", last["opa"].loaded.Heap, false},
	}}}}}
	return s, nil
}

func (e *engineProcess) text() string {
	t := e.typical()
	return fmt.Sprintf("%s µs (%s)", number(t.CPU/1000), number(t.Allocs))
}

// decidingAlone is what only Kith is asked: one hot pair, and the whole path.
func decidingAlone(ctx context.Context, b *bench) ([]figure, error) {
	hot, err := race(ctx, b, several("kith"), 100_000, "one")
	if err != nil {
		return nil, err
	}
	path, err := race(ctx, b, several("kith-path"), 1000, "many")
	if err != nil {
		return nil, err
	}
	h, beside := typicalOf(hot, "kith", 1)
	p, along := typicalOf(path, "kith-path", 1)
	return []figure{
		upTo("100 000 rules of one hot pair", h.CPU, fmt.Sprintf("ns (%s)", number(h.Allocs)), 270, "", beside),
		upTo("whole path, 1 000 rules: normal form, snapshot, decision, record", p.CPU, fmt.Sprintf("ns (%s)", number(p.Allocs)), 280, "", along),
	}, nil
}
