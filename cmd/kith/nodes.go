package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// nodesVerb lists and admits nodes.
func (a *app) nodesVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "nodes [NAME]", Aliases: []string{"node"}, Short: "list, add, ban and remove nodes",
	}
	list := a.nodesList()
	cmd.AddCommand(list, a.nodesAdd(), a.nodesBan(), a.nodesRemove())
	return listByDefault(cmd, list)
}

// nodeView is a node for machines.
type nodeView struct {
	Name      string `json:"name"`
	Class     string `json:"class"`
	ID        string `json:"spiffe_id"`
	Attestor  string `json:"attestor"`
	Connected bool   `json:"connected"`
	Banned    bool   `json:"banned,omitempty"`
	Revision  uint64 `json:"revision"`
	Version   string `json:"version,omitempty"`
	Address   string `json:"address,omitempty"`
	Endpoints uint32 `json:"endpoints"`
	Joined    int64  `json:"joined_unix"`
	LastSeen  int64  `json:"last_seen_unix"`
	Expires   int64  `json:"svid_expires_unix"`
}

func viewNode(n *pb.NodeInfo) nodeView {
	return nodeView{
		n.GetName(), n.GetClass(), n.GetSpiffeId(), n.GetAttestor(), n.GetConnected(), n.GetBanned(), n.GetRevision(),
		n.GetVersion(), n.GetAddress(), n.GetEndpoints(), n.GetJoinedUnix(), n.GetLastSeenUnix(), n.GetSvidExpiresUnix(),
	}
}

func nodeState(n *pb.NodeInfo) string {
	switch {
	case n.GetBanned():
		return "banned"
	case n.GetConnected():
		return "connected"
	default:
		return "away"
	}
}

func (a *app) nodesList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "list nodes and what they hold", Args: atMost(1),
		Example: "  kith nodes list\n  kith nodes list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			if err := a.knownNode(cmd.Context(), args[0]); err != nil {
				return err
			}
		}
		nodes, err := a.nodeInfos(cmd.Context())
		if err != nil {
			return err
		}
		views := []nodeView{}
		t := table{
			head:  []string{"NAME", "CLASS", "STATE", "REVISION", "ATTESTED BY", "SVID LEFT", "ENDPOINTS", "LAST SEEN"},
			empty: "no nodes: kith nodes add NAME --class vms prints a join line",
		}
		for _, n := range nodes {
			if len(args) == 1 && n.GetName() != args[0] {
				continue
			}
			views = append(views, viewNode(n))
			t.rows = append(t.rows, []string{
				n.GetName(), n.GetClass(), nodeState(n), strconv.FormatUint(n.GetRevision(), 10), n.GetAttestor(),
				a.rest(n.GetSvidExpiresUnix()), strconv.Itoa(int(n.GetEndpoints())), moment(n.GetLastSeenUnix()),
			})
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

func (a *app) nodeInfos(ctx context.Context) ([]*pb.NodeInfo, error) {
	var reply *pb.ListNodesResponse
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.ListNodes(ctx, &pb.ListNodesRequest{})
		return err
	})
	return reply.GetNodes(), err
}

// knownNode finds a node by name, or says which name is nearest.
func (a *app) knownNode(ctx context.Context, name string) error {
	nodes, err := a.nodeInfos(ctx)
	if err != nil {
		return err
	}
	names := make([]string, 0, len(nodes))
	for _, n := range nodes {
		if n.GetName() == name {
			return nil
		}
		names = append(names, n.GetName())
	}
	wrong := fault.NotFoundf("there is no node %q", name)
	if near := fault.Nearest(name, names); near != "" {
		return fault.Hint(wrong, "did you mean %s?", near)
	}
	return fault.Hint(wrong, "kith nodes list")
}

func (a *app) nodesAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "add NAME", Short: "print the one line by which a host joins", Args: exactly(1),
		Long: `Print the line to run on the new host. It carries the server's address, the pin
of its root and a token that admits one node, once, within --ttl. Whoever has the
line first can join as that node, so hand it over as you would a password.`,
		Example: "  kith nodes add vm-7 --class vms",
	}
	class := cmd.Flags().String("class", "", "the node rule that admits it (default: the only one there is)")
	ttl := cmd.Flags().Duration("ttl", 10*time.Minute, "how long the line is good for, at most 10m")
	dryRun := cmd.Flags().Bool("dry-run", false, "check the name and the class, make no token")
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *dryRun {
			return a.nodesAddDry(cmd.Context(), args[0], *class)
		}
		var reply *pb.AddNodeResponse
		err := a.withAdmin(cmd.Context(), func(ctx context.Context, admin pb.AdminClient) (err error) {
			reply, err = admin.AddNode(ctx, &pb.AddNodeRequest{Name: args[0], Class: *class, Ttl: durationpb.New(*ttl)})
			return err
		})
		if err != nil {
			return err
		}
		if *f != asTable {
			return a.print(*f, table{values: map[string]any{
				"join": reply.GetJoin(), "expires_unix": reply.GetExpiresUnix(),
			}})
		}
		fmt.Fprintf(a.stderr, "run this on %s within %s; it works once:\n", args[0], a.rest(reply.GetExpiresUnix()))
		fmt.Fprintf(a.stdout, "kith join %s\n", reply.GetJoin())
		return nil
	}
	return cmd
}

// nodesAddDry checks what AddNode would check first.
func (a *app) nodesAddDry(ctx context.Context, name, class string) error {
	objects, err := a.objects(ctx, "node", class)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return a.unknown(ctx, "node", class)
	}
	if class == "" {
		class = objects[0].GetNodeRule().GetName()
	}
	fmt.Fprintf(a.stdout, "would admit node %s of class %s\nnothing was changed (--dry-run)\n", name, class)
	return nil
}

func (a *app) nodesBan() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ban NAME", Short: "cut a node off, and keep it from joining again", Args: exactly(1),
		Example: "  kith nodes ban vm-7\n  kith nodes ban vm-7 --lift",
	}
	lift := cmd.Flags().Bool("lift", false, "let it join again")
	f := addChangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		verb := "ban"
		if *lift {
			verb = "lift the ban on"
		}
		return a.changeNode(cmd.Context(), f, args[0], verb, func(ctx context.Context, admin pb.AdminClient) (*pb.ChangeResult, error) {
			return admin.BanNode(ctx, &pb.BanNodeRequest{Name: args[0], Lift: *lift})
		})
	}
	return cmd
}

func (a *app) nodesRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm", "delete"}, Args: exactly(1),
		Short:   "forget a node that is gone; a new join line admits it again",
		Example: "  kith nodes remove vm-7 --dry-run",
	}
	f := addChangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.changeNode(cmd.Context(), f, args[0], "remove", func(ctx context.Context, admin pb.AdminClient) (*pb.ChangeResult, error) {
			return admin.RemoveNode(ctx, &pb.RemoveNodeRequest{Name: args[0]})
		})
	}
	return cmd
}

// changeNode does something to a node that exists.
func (a *app) changeNode(ctx context.Context, f *changeFlags, name, verb string,
	do func(context.Context, pb.AdminClient) (*pb.ChangeResult, error),
) error {
	if f.dryRun {
		if err := a.knownNode(ctx, name); err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "would %s node %s\nnothing was changed (--dry-run)\n", verb, name)
		return nil
	}
	var result *pb.ChangeResult
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		result, err = do(ctx, admin)
		return err
	})
	if err != nil {
		return err
	}
	return a.printChange(f, result)
}
