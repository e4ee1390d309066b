package main

import (
	"github.com/spf13/cobra"
)

// providersVerb lists, shows and removes who signs user tokens.
func (a *app) providersVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "providers [NAME]", Aliases: []string{"provider"}, Short: "list, show and remove who signs tokens for end users",
		Long: `Providers sign tokens (JWTs) for end users; rules look into them with jwt.* in
when:. They are added by kith apply -f FILE, under providers:.`,
	}
	list := a.providersList()
	cmd.AddCommand(list, a.providersShow(), a.providersRemove())
	return listByDefault(cmd, list)
}

// providerView is a provider for machines.
type providerView struct {
	Name       string   `json:"name"`
	Issuer     string   `json:"issuer"`
	Audiences  []string `json:"audiences"`
	URL        string   `json:"jwks_url,omitempty"`
	Algorithms []string `json:"algorithms,omitempty"`
	Locations  []string `json:"locations"`
	Services   []string `json:"services,omitempty"`
	Bound      bool     `json:"bound,omitempty"`
	Owner      string   `json:"owner,omitempty"`
}

func (a *app) providersList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "list providers", Args: atMost(1),
		Example: "  kith ids providers\n  kith ids providers list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objects, err := a.someObjects(cmd.Context(), "provider", args)
		if err != nil {
			return err
		}
		views := []providerView{}
		t := table{head: []string{"NAME", "ISSUER", "AUDIENCES", "KEYS", "SERVICES", "OWNER"}, empty: "no providers: no user token counts"}
		for _, o := range objects {
			p := o.GetProvider()
			locations, keys, services := p.GetLocations(), p.GetJwksUrl(), dash(p.GetServices())
			if len(locations) == 0 {
				locations = []string{"bearer"}
			}
			if keys == "" {
				keys = "inline"
			}
			if len(p.GetServices()) == 0 {
				services = "all"
			}
			views = append(views, providerView{
				p.GetName(), p.GetIssuer(), p.GetAudiences(), p.GetJwksUrl(), p.GetAlgorithms(), locations, p.GetServices(), p.GetBound(), p.GetOwner(),
			})
			t.rows = append(t.rows, []string{p.GetName(), p.GetIssuer(), dash(p.GetAudiences()), keys, services, p.GetOwner()})
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

func (a *app) providersShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show NAME", Short: "print a provider as YAML, ready for kith apply", Args: exactly(1),
		Example: "  kith ids providers show login",
	}
	cmd.ValidArgsFunction = a.completeNames("provider")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), "provider", args[0]) }
	return cmd
}

func (a *app) providersRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME...", Aliases: []string{"rm", "delete"}, Args: atLeast(1),
		Short: "remove providers: their tokens count no longer", Example: "  kith ids providers remove login --dry-run",
	}
	f := addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames("provider")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.remove(cmd.Context(), f, "provider", args) }
	return cmd
}
