package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/pb"
)

// rulesVerb lists, shows and removes rules.
func (a *app) rulesVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rules [NAME]", Aliases: []string{"rule"}, Short: "list, show, remove, check, test and suggest rules",
	}
	list := a.rulesList()
	cmd.AddCommand(list, a.rulesShow(), a.rulesRemove(), a.rulesTest(), a.rulesLint(), a.rulesFlows(), a.rulesSuggest())
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
		Use: "show NAME", Short: "print a rule as YAML, ready for kith apply", Args: exactly(1),
		Example: "  kith rules show web-reads > web-reads.yaml",
	}
	cmd.ValidArgsFunction = a.completeNames("rule")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), "rule", args[0]) }
	return cmd
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
