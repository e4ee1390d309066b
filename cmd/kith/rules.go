package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// rulesVerb lists, shows and removes rules.
func (a *app) rulesVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rules [NAME]", Aliases: []string{"rule"}, Short: "list, show, remove, lint, test and suggest rules",
	}
	list := a.rulesList()
	cmd.AddCommand(list, a.rulesShow(), a.rulesBoundary(), a.rulesRemove(), a.rulesTest(), a.rulesLint(), a.rulesFlows(), a.rulesSuggest())
	return listByDefault(cmd, list)
}

// ruleView is a rule for machines.
type ruleView struct {
	Name      string   `json:"name"`
	From      []string `json:"from"`
	To        string   `json:"to"`
	Allow     []string `json:"allow,omitempty"`
	Deny      []string `json:"deny,omitempty"`
	Except    []string `json:"except,omitempty"`
	Guardrail bool     `json:"guardrail,omitempty"`
	Boundary  []string `json:"boundary,omitempty"`
	When      string   `json:"when,omitempty"`
	Mode      string   `json:"mode,omitempty"`
	Owner     string   `json:"owner,omitempty"`
}

func (a *app) rulesList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "list rules", Args: atMost(1),
		Example: "  kith rules list\n  kith rules list --to orders -o json",
	}
	f := outputFlag(cmd)
	to := cmd.Flags().String("to", "", "only rules to this service")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		objects, err := a.someObjects(cmd.Context(), "rule", args)
		if err != nil {
			return err
		}
		views := []ruleView{}
		t := table{head: []string{"NAME", "FROM", "TO", "EFFECT", "ACTIONS", "OWNER"}, empty: "no rules: everything is denied"}
		for _, o := range objects {
			r := o.GetRule()
			if *to != "" && r.GetTo() != *to {
				continue
			}
			views = append(views, ruleView{r.GetName(), r.GetFrom(), r.GetTo(), r.GetAllow(), r.GetDeny(), r.GetExcept(), r.GetGuardrail(), r.GetBoundary(), r.GetWhen(), r.GetMode(), r.GetOwner()})
			t.rows = append(t.rows, ruleRows(r)...)
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

// ruleRows is a row for each action of a rule.
func ruleRows(r *pb.Rule) (rows [][]string) {
	for _, list := range []struct {
		effect  string
		actions []string
	}{{"allow", r.GetAllow()}, {"deny", r.GetDeny()}, {"boundary", r.GetBoundary()}} {
		effect := list.effect
		if r.GetMode() != "" {
			effect += " (" + r.GetMode() + ")"
		}
		for _, action := range list.actions {
			if r.GetWhen() != "" {
				action += " when " + r.GetWhen()
			}
			rows = append(rows, []string{r.GetName(), strings.Join(r.GetFrom(), ","), r.GetTo(), effect, action, r.GetOwner()})
		}
	}
	return rows
}

func (a *app) rulesShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [NAME...]", Short: "print rules as YAML, ready for kith apply, or as command lines", Args: atLeast(0),
		Example: "  kith rules show web-reads > web-reads.yaml\n  kith rules show -o cli\n  kith rules show -f acme.yaml -o cli",
	}
	output := cmd.Flags().StringP("output", "o", "yaml", "how to print: yaml, or cli for the commands that make the rules")
	complete(cmd, "output", "yaml", "cli")
	files := cmd.Flags().StringArrayP("file", "f", nil, "state file or directory to read instead of asking the server")
	cmd.ValidArgsFunction = a.completeNames("rule")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *output != "yaml" && *output != "cli" {
			return usagef(cmd, "unknown output %q: yaml or cli", *output)
		}
		objects, err := a.rulesNamed(cmd.Context(), *files, args)
		if err != nil {
			return err
		}
		if *output == "cli" {
			for _, o := range objects {
				fmt.Fprintln(a.stdout, commandLine(o.GetRule()))
			}
			return nil
		}
		text, err := config.EncodeState(config.State{Objects: objects})
		if err == nil {
			_, err = fmt.Fprint(a.stdout, string(text))
		}
		return err
	}
	return cmd
}

// rulesNamed are the rules of some names, or all, of the server or of files.
func (a *app) rulesNamed(ctx context.Context, files, names []string) ([]*pb.Object, error) {
	if len(files) == 0 && len(names) == 0 {
		return a.objects(ctx, "rule", "")
	}
	var out []*pb.Object
	if len(files) == 0 {
		for _, name := range names {
			objects, err := a.someObjects(ctx, "rule", []string{name})
			if err != nil {
				return nil, err
			}
			out = append(out, objects...)
		}
		return out, nil
	}
	state, err := config.ReadState(files, a.stdin)
	if err != nil {
		return nil, err
	}
	for _, o := range state.Objects {
		if r := o.GetRule(); r != nil && (len(names) == 0 || slices.Contains(names, r.GetName())) {
			if r.GetOwner() == "" {
				r.Owner = ownerFile // as kith apply takes it
			}
			out = append(out, o)
		}
	}
	if len(names) > 0 && len(out) < len(names) {
		return nil, fault.NotFoundf("the files have %d of the %d rules named", len(out), len(names))
	}
	return out, nil
}

// rulesBoundary makes a boundary in one line.
func (a *app) rulesBoundary() *cobra.Command {
	return a.ruleVerb(&cobra.Command{
		Use:   "boundary FROM ACTION... on TO",
		Short: "say what a service may be asked at most, and by whom",
		Example: `  kith rules boundary any "GET,HEAD,POST /{**}" on orders --name at-most
  kith rules boundary "/eks/**" "* /{**}" tcp on any --except /eks/ops/shell --shadow`,
	})
}

func (a *app) rulesRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use: "remove NAME...", Aliases: []string{"rm", "delete"}, Short: "remove rules", Args: atLeast(1),
		Example: "  kith rules remove web-reads --dry-run\n  kith rules remove web-reads",
	}
	f := addChangeFlags(cmd)
	cmd.ValidArgsFunction = a.completeNames("rule")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.remove(cmd.Context(), f, "rule", args) }
	return cmd
}

// show prints one object as YAML.
func (a *app) show(ctx context.Context, kind, name string) error {
	objects, err := a.objects(ctx, kind, name)
	if err != nil {
		return err
	}
	if len(objects) == 0 {
		return a.unknown(ctx, kind, name)
	}
	text, err := config.EncodeObject(objects[0])
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(a.stdout, string(text))
	return err
}

// remove deletes objects by name; a name that is unknown stops the whole.
func (a *app) remove(ctx context.Context, f *changeFlags, kind string, names []string) error {
	req := &pb.ApplyRequest{Owner: ownerCLI}
	for _, name := range names {
		objects, err := a.objects(ctx, kind, name)
		if err != nil {
			return err
		}
		if len(objects) == 0 {
			return a.unknown(ctx, kind, name)
		}
		req.Delete = append(req.Delete, &pb.Key{Kind: kind, Name: name})
	}
	return a.change(ctx, f, req)
}
