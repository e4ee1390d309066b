package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/adopt"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// importVerb turns other systems' policies into rules.
func (a *app) importVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "import SYSTEM FILE...", Short: "turn policies of Istio, Linkerd, Consul or Kubernetes into rules", Args: atLeast(2),
		Long: `Print, as a state file, the rules that mean what the policies in the files mean:
exactly, or not at all. What has no counterpart is refused with its line and the
reason, and no rule is made for a service that a refused part selects, because the
rest would mean something else without it. Nothing is changed; kith plan -f shows
what the rules would do. The inventory says what the other system's selectors and
accounts are here:

  id: /eks/{namespace}/{account}      # what a service account is here
  workloads:
    - {service: orders, namespace: shop, labels: {app: orders}, ports: {http: 8080}}

SYSTEM is istio, linkerd, consul or networkpolicy. The exit code is 1 when
something was refused.`,
		Example: "  kith import istio policies.yaml --inventory inventory.yaml > rules.yaml\n  kith import istio policies.yaml --inventory inventory.yaml --explain",
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return adopt.Systems(), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveDefault
		},
	}
	inventory := cmd.Flags().String("inventory", "", "file that says what the other system's names are here (required)")
	files := cmd.Flags().StringArrayP("file", "f", nil, "state files with our services, instead of the server's")
	explain := cmd.Flags().Bool("explain", false, "say which line became which rule, and why not")
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *inventory == "" {
			return usagef(cmd, "say what the names are here: --inventory FILE")
		}
		services, err := a.setToTest(cmd.Context(), *files)
		if err != nil {
			return err
		}
		result, err := adopted(args[0], args[1:], *inventory, services)
		if err != nil {
			return err
		}
		return a.printAdopted(*f, result, services, *explain)
	}
	return cmd
}

// adopted reads the files and adopts them.
func adopted(system string, names []string, inventory string, services policy.Set) (adopt.Result, error) {
	listed, err := config.ReadInventory(inventory)
	if err != nil {
		return adopt.Result{}, err
	}
	in := adopt.Inventory{
		TrustDomain: services.TrustDomain.String(), ID: listed.ID, Aliases: listed.Aliases, RootNamespace: listed.RootNamespace,
		Namespaces: listed.Namespaces, Default: string(listed.Default),
	}
	for _, w := range listed.Workloads {
		in.Workloads = append(in.Workloads, adopt.Workload{
			Service: w.Service, Namespace: w.Namespace, Labels: w.Labels, Ports: w.Numbers(), Protocol: services.Services[w.Service].Protocol,
		})
	}
	var files []adopt.File
	for _, name := range names {
		data, err := config.ReadForeign(name)
		if err != nil {
			return adopt.Result{}, err
		}
		files = append(files, adopt.File{Name: name, Data: data})
	}
	return adopt.Read(system, in, files)
}

// adoptedView is what was adopted for machines.
type adoptedView struct {
	Lines   []adoptedLine `json:"lines"`
	Refused []adoptedLine `json:"refused"`
	Left    []string      `json:"services_left_out"`
}

type adoptedLine struct {
	At     string `json:"at,omitempty"`
	Object string `json:"object"`
	Part   string `json:"part,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Text   string `json:"text"`
}

func (a *app) printAdopted(f format, r adopt.Result, services policy.Set, explain bool) error {
	if f != asTable {
		v := adoptedView{Lines: []adoptedLine{}, Refused: []adoptedLine{}, Left: r.Left}
		for _, l := range r.Lines {
			v.Lines = append(v.Lines, adoptedLine{l.At, l.Object, l.Source, l.Rule, l.Text})
		}
		for _, l := range r.Refused {
			v.Refused = append(v.Refused, adoptedLine{l.At, l.Object, l.Source, "", l.Text})
		}
		if err := a.print(f, table{values: v}); err != nil {
			return err
		}
		return refused(r)
	}
	for _, l := range r.Refused {
		fmt.Fprintf(a.stderr, "refused: %s\n", explained(l))
	}
	if explain {
		for _, l := range r.Lines {
			fmt.Fprintln(a.stdout, explained(l))
		}
		return refused(r)
	}
	set := policy.Set{TrustDomain: services.TrustDomain, Services: services.Services, Rules: make(map[string]policy.Rule), Teams: services.Teams}
	var objects []*pb.Object
	for _, p := range r.Providers {
		objects = append(objects, &pb.Object{Kind: &pb.Object_Provider{Provider: p.PB()}})
	}
	for _, rule := range r.Rules {
		set.Rules[rule.Name] = rule
		objects = append(objects, &pb.Object{Kind: &pb.Object_Rule{Rule: rule.PB()}})
	}
	if _, err := set.Validate(); err != nil {
		return err
	}
	if len(objects) > 0 {
		text, err := config.EncodeState(config.State{TrustDomain: services.TrustDomain, Objects: objects})
		if err != nil {
			return err
		}
		if _, err := a.stdout.Write(slices.Clip(text)); err != nil {
			return err
		}
	}
	return refused(r)
}

// explained is one line: where, what, and what became of it.
func explained(l adopt.Line) string {
	where := visible(strings.TrimSpace(strings.Join([]string{l.At, l.Object, l.Source}, " ")))
	if l.Rule != "" {
		return fmt.Sprintf("%s -> %s: %s", where, l.Rule, visible(l.Text))
	}
	return fmt.Sprintf("%s: %s", where, visible(l.Text))
}

func refused(r adopt.Result) error {
	switch {
	case len(r.Refused) == 0:
		return nil
	case len(r.Left) == 0:
		return fmt.Errorf("%d parts have no counterpart here", len(r.Refused))
	}
	err := fmt.Errorf("%d parts cannot be said in rules; nothing was made for %s", len(r.Refused), strings.Join(r.Left, ", "))
	return fault.Hint(err, "say those parts by hand as the reasons tell, take them out of the files, and import again")
}
