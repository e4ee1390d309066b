package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/pb"
)

// watchVerb streams what happens until interrupted.
func (a *app) watchVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "watch", Short: "print changes, decisions and nodes as they happen", Args: atMost(0),
		Example: "  kith watch\n  kith watch --decisions\n  kith watch -o json | jq .",
	}
	f := outputFlag(cmd)
	var req pb.WatchRequest
	cmd.Flags().BoolVar(&req.Changes, "changes", false, "changes of services, rules and nodes")
	cmd.Flags().BoolVar(&req.Decisions, "decisions", false, "who was allowed or denied")
	cmd.Flags().BoolVar(&req.Nodes, "nodes", false, "nodes that come and go")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !req.GetChanges() && !req.GetDecisions() && !req.GetNodes() {
			req.Changes, req.Decisions, req.Nodes = true, true, true
		}
		err := a.streamAdmin(cmd.Context(), func(ctx context.Context, admin pb.AdminClient) error {
			return a.watch(ctx, admin, *f, &req)
		})
		if errors.Is(err, context.Canceled) {
			return nil // Ctrl-C is how a watch ends
		}
		return err
	}
	return cmd
}

func (a *app) watch(ctx context.Context, admin pb.AdminClient, f format, req *pb.WatchRequest) error {
	stream, err := admin.Watch(ctx, req)
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the server ended the watch")
		}
		if err != nil {
			return err
		}
		if err := a.printEvent(f, event); err != nil {
			return err
		}
	}
}

// eventView is an event for machines, one JSON document a line.
type eventView struct {
	Time     string        `json:"time"`
	Event    string        `json:"event"`
	Change   *changeView   `json:"change,omitempty"`
	Decision *decisionView `json:"decision,omitempty"`
	Node     *nodeView     `json:"node,omitempty"`
}

func (a *app) printEvent(f format, e *pb.WatchEvent) error {
	at := time.Unix(0, e.GetTimeUnixNano()).UTC()
	if f != asTable {
		v := eventView{Time: at.Format(time.RFC3339Nano), Event: e.GetEvent()}
		if e.GetChange() != nil {
			c := viewChange(e.GetChange(), false)
			v.Change = &c
		}
		if e.GetDecision() != nil {
			d := viewDecision(e.GetDecision())
			v.Decision = &d
		}
		if e.GetNode() != nil {
			n := viewNode(e.GetNode())
			v.Node = &n
		}
		return a.print(f, table{values: v})
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %s\n", at.Format("15:04:05.000"), inLine(eventText(e)))
	return err
}

// eventText is one event on one line.
func eventText(e *pb.WatchEvent) string {
	switch {
	case e.GetDecision() != nil:
		d := e.GetDecision()
		text := fmt.Sprintf("%-5s %s: %s on %s", d.GetEffect(), who(d), call(d), d.GetTo())
		if d.GetRule() != "" {
			return fmt.Sprintf("%s by rule %s (%s)", text, d.GetRule(), d.GetId())
		}
		return fmt.Sprintf("%s, %s (%s)", text, d.GetReason(), d.GetId())
	case e.GetChange() != nil:
		words := make([]string, 0, len(e.GetChange().GetChanges()))
		for _, c := range e.GetChange().GetChanges() {
			words = append(words, fmt.Sprintf("%s %s %s", past(c.GetVerb(), false), c.GetKey().GetKind(), c.GetKey().GetName()))
		}
		return fmt.Sprintf("revision %d: %s", e.GetChange().GetRevision(), strings.Join(words, ", "))
	case e.GetNode() != nil:
		return fmt.Sprintf("%s: %s (%s)", e.GetEvent(), e.GetNode().GetName(), nodeState(e.GetNode()))
	default:
		return e.GetEvent()
	}
}
