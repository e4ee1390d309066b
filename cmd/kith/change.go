package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// ownerCLI owns what is changed by hand; files have owners of their own.
const ownerCLI = "cli"

// changeFlags are the flags of every verb that changes something.
type changeFlags struct {
	dryRun bool
	wait   time.Duration
	noWait bool
	strict bool
	format *format
	where  placer // of what was read from files; nil: of nothing
}

// addChangeFlags gives a verb --dry-run, --wait and -o.
func addChangeFlags(cmd *cobra.Command) *changeFlags {
	f := &changeFlags{format: outputFlag(cmd)}
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the change, make none")
	cmd.Flags().DurationVar(&f.wait, "wait", 10*time.Second, "how long to wait until all live nodes have it")
	cmd.Flags().Lookup("wait").NoOptDefVal = "10s"
	cmd.Flags().BoolVar(&f.noWait, "no-wait", false, "return as soon as it is recorded")
	return f
}

// change sends one transaction and prints what came of it.
func (a *app) change(ctx context.Context, f *changeFlags, req *pb.ApplyRequest) error {
	req.DryRun, req.NoWait, req.Strict, req.Wait = f.dryRun, f.noWait, f.strict, durationpb.New(f.wait)
	ctx, cancel := context.WithTimeout(ctx, f.wait+callLimit)
	defer cancel()
	var result *pb.ChangeResult
	err := a.streamAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		result, err = admin.Apply(ctx, req)
		return err
	})
	if err != nil {
		return f.where.in(err)
	}
	return a.printChange(f, result)
}

// changeView is a change for machines.
type changeView struct {
	Revision uint64       `json:"revision"`
	DryRun   bool         `json:"dry_run,omitempty"`
	Changes  []changeItem `json:"changes"`
	Warnings []string     `json:"warnings,omitempty"`
	Refused  []string     `json:"refused,omitempty"`
	Affected uint32       `json:"affected"`
	Acked    uint32       `json:"acked"`
	Laggards []string     `json:"laggards,omitempty"`
	TookMS   float64      `json:"took_ms"`
	Replay   *replayView  `json:"replay,omitempty"`
}

type changeItem struct {
	Verb string `json:"verb"`
	Kind string `json:"kind"`
	Name string `json:"name"`
	Diff string `json:"diff,omitempty"`
}

func viewChange(r *pb.ChangeResult, dryRun bool) changeView {
	v := changeView{
		Revision: r.GetRevision(), DryRun: dryRun, Changes: []changeItem{}, Warnings: r.GetWarnings(), Refused: r.GetRefused(),
		Affected: r.GetAffected(), Acked: r.GetAcked(), Laggards: r.GetLaggards(),
		TookMS: float64(r.GetTook().AsDuration().Microseconds()) / 1000,
	}
	for _, c := range r.GetChanges() {
		v.Changes = append(v.Changes, changeItem{c.GetVerb(), c.GetKey().GetKind(), c.GetKey().GetName(), c.GetDiff()})
	}
	v.Replay = viewReplay(r.GetReplay())
	return v
}

// printChange says what changed and where it is in force. A live node that has
// not acknowledged is an error: the caller asked for "everywhere".
func (a *app) printChange(f *changeFlags, r *pb.ChangeResult) error {
	for _, w := range r.GetWarnings() {
		fmt.Fprintf(a.stderr, "warning: %s%s\n", f.where.of(w), w)
	}
	for _, text := range r.GetRefused() {
		fmt.Fprintf(a.stderr, "would be refused: %s\n", text)
	}
	if *f.format != asTable {
		if err := a.print(*f.format, table{values: viewChange(r, f.dryRun)}); err != nil {
			return err
		}
		return lagging(f, r)
	}
	for _, c := range r.GetChanges() {
		fmt.Fprintf(a.stdout, "%s %s %s\n", past(c.GetVerb(), f.dryRun), c.GetKey().GetKind(), c.GetKey().GetName())
		if f.dryRun {
			a.printDiff(c.GetDiff())
		}
	}
	switch {
	case len(r.GetChanges()) == 0:
		fmt.Fprintln(a.stdout, "nothing to change")
	case f.dryRun:
		a.printReplay(r.GetReplay())
		fmt.Fprintln(a.stdout, "nothing was changed (--dry-run)")
	case f.noWait:
		fmt.Fprintf(a.stdout, "recorded as revision %d\n", r.GetRevision())
	default:
		fmt.Fprintln(a.stdout, effective(r))
	}
	return lagging(f, r)
}

// effective is the line that says where a change is in force.
func effective(r *pb.ChangeResult) string {
	if r.GetAffected() == 0 {
		return fmt.Sprintf("recorded as revision %d; no node has to enforce it yet, and none will serve without it", r.GetRevision())
	}
	noun := "nodes"
	if r.GetAffected() == 1 {
		noun = "node"
	}
	return fmt.Sprintf("effective on %d of %d %s in %d ms", r.GetAcked(), r.GetAffected(), noun,
		max(1, r.GetTook().AsDuration().Milliseconds()))
}

func lagging(f *changeFlags, r *pb.ChangeResult) error {
	if f.noWait || f.dryRun || len(r.GetLaggards()) == 0 {
		return nil
	}
	err := fmt.Errorf("not yet in force on %s; the change is kept and takes effect there when they answer",
		strings.Join(r.GetLaggards(), ", "))
	return fault.Hint(err, "kith nodes list")
}

// past is what has been, or would be, done.
func past(verb string, dryRun bool) string {
	if dryRun {
		return "would " + verb
	}
	return verb + "d"
}

func (a *app) printDiff(diff string) {
	for line := range strings.Lines(diff) {
		fmt.Fprintf(a.stdout, "  %s\n", strings.TrimRight(line, "\n"))
	}
}
