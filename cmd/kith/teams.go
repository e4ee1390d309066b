package main

import (
	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/pb"
)

// teamsVerb says which part of the services is whose.
func (a *app) teamsVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "teams [NAME]", Aliases: []string{"team"}, Short: "list, add, edit and remove teams, which own services",
		Long: `A team owns services (services: NAME: team: in a state file, or kith services
--team) and so the rules to them. Operators who are bound to teams (kith ids admins
add NAME --role operator --team TEAM) change nothing else. Teams are for admins to
change. docs/teams.md tells it as a story.`,
	}
	list := a.teamsList()
	cmd.AddCommand(list, a.teamsAdd(), a.teamsEdit(), a.teamsShow(), a.teamsRemove())
	return listByDefault(cmd, list)
}

// teamView is a team for machines.
type teamView struct {
	Name         string   `json:"name"`
	Identities   []string `json:"identities"`
	TrustDomains []string `json:"trust_domains,omitempty"`
	Platform     bool     `json:"platform,omitempty"`
	Services     []string `json:"services"`
	Owner        string   `json:"owner,omitempty"`
}

func (a *app) teamsList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "list teams and what is theirs", Args: atMost(1),
		Example: "  kith ids teams\n  kith ids teams list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objects, err := a.someObjects(cmd.Context(), "team", args)
		if err != nil {
			return err
		}
		services, err := a.objects(cmd.Context(), "service", "")
		if err != nil {
			return err
		}
		views := []teamView{}
		t := table{head: []string{"NAME", "IDENTITIES", "TRUST DOMAINS", "SERVICES", "OWNER"}, empty: "no teams: every operator may change every service"}
		for _, o := range objects {
			one := o.GetTeam()
			view := teamView{one.GetName(), one.GetIdentities(), one.GetTrustDomains(), one.GetPlatform(), []string{}, one.GetOwner()}
			for _, s := range services {
				if s.GetService().GetTeam() == one.GetName() {
					view.Services = append(view.Services, s.GetService().GetName())
				}
			}
			views = append(views, view)
			own := dash(view.Services)
			if view.Platform {
				own = "all (platform)"
			}
			t.rows = append(t.rows, []string{view.Name, dash(view.Identities), dash(view.TrustDomains), own, view.Owner})
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

// teamFlags are the fields of a team that add and edit can set.
type teamFlags struct {
	identities, domains []string
	platform            bool
}

func addTeamFlags(cmd *cobra.Command) *teamFlags {
	f := &teamFlags{}
	cmd.Flags().StringSliceVar(&f.identities, "identity", nil, "IDs that its services may have, as /eks/shop/**")
	cmd.Flags().StringSliceVar(&f.domains, "trust-domain", nil, "other trust domains whose peers its rules may let in")
	cmd.Flags().BoolVar(&f.platform, "platform", false, "its operators may change every service and rule, guardrails and boundaries too")
	return f
}

func (f *teamFlags) set(cmd *cobra.Command, t *pb.Team) {
	if cmd.Flags().Changed("identity") {
		t.Identities = f.identities
	}
	if cmd.Flags().Changed("trust-domain") {
		t.TrustDomains = f.domains
	}
	if cmd.Flags().Changed("platform") {
		t.Platform = f.platform
	}
}

func (a *app) teamsAdd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "add NAME", Short: "add a team", Args: exactly(1),
		Example: "  kith ids teams add shop --identity '/eks/shop/**'\n  kith ids teams add sre --platform",
	}
	fields, f := addTeamFlags(cmd), addChangeFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t := &pb.Team{Name: args[0], Owner: ownerCLI}
		fields.set(cmd, t)
		return a.change(cmd.Context(), f, &pb.ApplyRequest{
			Put: []*pb.Object{{Kind: &pb.Object_Team{Team: t}}}, Owner: ownerCLI, CreateOnly: true,
		})
	}
	return cmd
}

func (a *app) teamsEdit() *cobra.Command {
	cmd := &cobra.Command{
		Use: "edit NAME", Short: "change fields of a team; those not given stay", Args: exactly(1),
		Example: "  kith ids teams edit shop --trust-domain partner.example --dry-run",
	}
	fields, f := addTeamFlags(cmd), addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames("team")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objects, err := a.objects(cmd.Context(), "team", args[0])
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			return a.unknown(cmd.Context(), "team", args[0])
		}
		t := objects[0].GetTeam()
		fields.set(cmd, t)
		return a.change(cmd.Context(), f, &pb.ApplyRequest{
			Put: []*pb.Object{{Kind: &pb.Object_Team{Team: t}}}, Owner: t.GetOwner(),
		})
	}
	return cmd
}

func (a *app) teamsShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "print a team as YAML, ready for kith apply", Args: exactly(1),
		Example: "  kith ids teams show shop",
	}
	cmd.ValidArgsFunction = a.completeNames("team")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), "team", args[0]) }
	return cmd
}

func (a *app) teamsRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME...", Aliases: []string{"rm", "delete"}, Args: atLeast(1),
		Short: "remove teams that have no service and no operator", Example: "  kith ids teams remove shop --dry-run",
	}
	f := addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames("team")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.remove(cmd.Context(), f, "team", args) }
	return cmd
}
