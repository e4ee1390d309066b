package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// adminsVerb says who may administer from elsewhere.
func (a *app) adminsVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "admins", Aliases: []string{"admin"}, Short: "list, add and remove those who administer from elsewhere",
		Long: `Admins ask the server from other hosts, with an admin SVID and kith --server. The
server lets them in where server.admin_listen says. Roles: a viewer sees everything,
an operator also changes services and rules and adds nodes, an admin does everything.
An operator who is bound to teams changes only what is theirs (kith ids teams).`,
	}
	list := a.adminsList()
	cmd.AddCommand(list, a.adminsAdd(), a.adminsRole(), a.adminsRemove())
	return listByDefault(cmd, list)
}

// adminView is an admin for machines.
type adminView struct {
	Name      string `json:"name"`
	Role      string `json:"role"`
	ID        string `json:"spiffe_id"`
	Connected bool   `json:"connected"`
	Joined    int64  `json:"joined_unix"`
	AddedBy   string `json:"added_by"`

	Teams []string `json:"teams,omitempty"`
}

func (a *app) adminsList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list admins and their roles", Args: atMost(0),
		Example: "  kith ids admins\n  kith ids admins list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		admins, err := a.admins(cmd.Context())
		if err != nil {
			return err
		}
		views := []adminView{}
		t := table{
			head:  []string{"NAME", "ROLE", "STATE", "JOINED", "ADDED BY", "TEAMS"},
			empty: "no admins elsewhere: kith ids admins add NAME --role viewer prints a line",
		}
		for _, one := range admins {
			views = append(views, adminView{
				one.GetName(), one.GetRole(), one.GetSpiffeId(), one.GetConnected(), one.GetJoinedUnix(), one.GetAddedBy(), one.GetTeams(),
			})
			state := "away"
			if one.GetConnected() {
				state = "connected"
			}
			t.rows = append(t.rows, []string{one.GetName(), one.GetRole(), state, moment(one.GetJoinedUnix()), one.GetAddedBy(), dash(one.GetTeams())})
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

func (a *app) adminsAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "add NAME", Short: "print the one line by which somebody becomes an admin", Args: exactly(1),
		Long: `Print the line to run where NAME works. It carries the address of the admin listener,
the pin of the root and a token that makes one admin, once, within --ttl. Whoever has
the line first becomes NAME, so hand it over as you would a password. For an admin
there is, it binds a new key in place of the old one, which ends at once.`,
		Example: "  kith ids admins add alice --role operator\n  kith ids admins add bob --role operator --team shop",
	}
	role := cmd.Flags().String("role", "", "viewer, operator or admin (default: the one NAME has)")
	complete(cmd, "role", "viewer", "operator", "admin")
	teams := cmd.Flags().StringSlice("team", nil, "teams whose services and rules alone an operator may change")
	ttl := cmd.Flags().Duration("ttl", 10*time.Minute, "how long the line is good for, at most 10m")
	dryRun := cmd.Flags().Bool("dry-run", false, "say what would be added, make no token")
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *dryRun {
			return a.wouldAdmin(cmd.Context(), "add admin "+args[0], "", *role)
		}
		var reply *pb.AddAdminResponse
		err := a.withAdmin(cmd.Context(), func(ctx context.Context, admin pb.AdminClient) (err error) {
			reply, err = admin.AddAdmin(ctx, &pb.AddAdminRequest{Name: args[0], Role: *role, Teams: *teams, Ttl: durationpb.New(*ttl)})
			return err
		})
		if err != nil {
			return err
		}
		if *f != asTable {
			return a.print(*f, table{values: map[string]any{"join": reply.GetJoin(), "expires_unix": reply.GetExpiresUnix()}})
		}
		fmt.Fprintf(a.stderr, "run this where %s works, within %s; it works once:\n", args[0], a.rest(reply.GetExpiresUnix()))
		fmt.Fprintf(a.stdout, "kith join --admin %s\n", reply.GetJoin())
		return nil
	}
	return cmd
}

func (a *app) adminsRole() *cobra.Command {
	cmd := &cobra.Command{
		Use: "role NAME ROLE", Short: "change what an admin may do, at once", Args: exactly(2),
		Example: "  kith ids admins role alice viewer\n  kith ids admins role bob operator --team shop,stock",
	}
	teams := cmd.Flags().StringSlice("team", nil, "teams whose services and rules alone an operator may change (default: those there are)")
	unbind := cmd.Flags().Bool("every-service", false, "bound to no team: an operator for all services")
	dryRun := cmd.Flags().Bool("dry-run", false, "show the change, make none")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *dryRun {
			return a.wouldAdmin(cmd.Context(), "make admin "+args[0]+" "+args[1], args[0], args[1])
		}
		err := a.withAdmin(cmd.Context(), func(ctx context.Context, admin pb.AdminClient) error {
			_, err := admin.SetAdminRole(ctx, &pb.SetAdminRoleRequest{Name: args[0], Role: args[1], Teams: *teams, Unbind: *unbind})
			return err
		})
		if err == nil {
			fmt.Fprintf(a.stdout, "admin %s has the role %s now\n", args[0], args[1])
		}
		return err
	}
	return cmd
}

func (a *app) adminsRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm", "delete"}, Args: exactly(1),
		Short:   "remove an admin: their connections are cut, their lines void",
		Example: "  kith ids admins remove alice",
	}
	dryRun := cmd.Flags().Bool("dry-run", false, "show the change, make none")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *dryRun {
			return a.wouldAdmin(cmd.Context(), "remove admin "+args[0], args[0], "")
		}
		err := a.withAdmin(cmd.Context(), func(ctx context.Context, admin pb.AdminClient) error {
			_, err := admin.RemoveAdmin(ctx, &pb.RemoveAdminRequest{Name: args[0]})
			return err
		})
		if err == nil {
			fmt.Fprintf(a.stdout, "removed admin %s\n", args[0])
		}
		return err
	}
	return cmd
}

func (a *app) admins(ctx context.Context) ([]*pb.AdminInfo, error) {
	var reply *pb.ListAdminsResponse
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.ListAdmins(ctx, &pb.ListAdminsRequest{})
		return err
	})
	return reply.GetAdmins(), err
}

// wouldAdmin checks what the server would check first - that there is an admin
// of that name and such a role, where they matter - and changes nothing.
func (a *app) wouldAdmin(ctx context.Context, what, name, role string) error {
	admins, err := a.admins(ctx)
	if err != nil {
		return err
	}
	if role != "" {
		if _, err := registry.ParseRole(role); err != nil {
			return err
		}
	}
	known := name == ""
	var names []string
	for _, one := range admins {
		known = known || one.GetName() == name
		names = append(names, one.GetName())
	}
	if !known {
		wrong := fault.NotFoundf("there is no admin %s", name)
		if near := fault.Nearest(name, names); near != "" {
			return fault.Hint(wrong, "did you mean %s?", near)
		}
		return fault.Hint(wrong, "kith ids admins")
	}
	_, err = fmt.Fprintf(a.stdout, "would %s\nnothing was changed (--dry-run)\n", what)
	return err
}
