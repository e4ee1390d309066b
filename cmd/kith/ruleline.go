package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// addRuleFlags gives a verb the fields of a rule that are no words of its
// sentence. What is read of them is read by ruleOf.
func addRuleFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.String("name", "", "the rule's name (default: made from what it says)")
	flags.String("owner", ownerCLI, "who owns the rule, as owner: in a file")
	flags.Bool("replace", false, "replace the rule of that name")
	flags.String("when", "", `a condition that must hold, as 'request.headers["x-env"] == "prod"'`)
	flags.Bool("shadow", false, "compute and report what the rule would do, enforce nothing")
	switch cmd.Name() {
	case "allow":
		flags.StringArray("deny", nil, "an action that the same rule denies")
		flags.StringSlice("except", nil, "sources that its --deny does not bind")
	case "deny":
		flags.StringSlice("except", nil, "sources that the rule does not bind")
		flags.Bool("guardrail", false, "a platform rule, above those of the service's owner")
	default:
		flags.StringSlice("except", nil, "sources that the boundary does not bind")
	}
}

// ruleOf is the rule that a command line says.
func ruleOf(cmd *cobra.Command, args []string) (*pb.Rule, error) {
	from, actions, to, err := sentence(cmd, args)
	if err != nil {
		return nil, err
	}
	flags := cmd.Flags()
	rule := &pb.Rule{From: from, To: to}
	// A flag that the verb has not is empty.
	rule.Name, _ = flags.GetString("name")
	rule.Owner, _ = flags.GetString("owner")
	rule.When, _ = flags.GetString("when")
	rule.Guardrail, _ = flags.GetBool("guardrail")
	if except, _ := flags.GetStringSlice("except"); len(except) > 0 {
		rule.Except = except
	}
	if shadow, _ := flags.GetBool("shadow"); shadow {
		rule.Mode = policy.Shadow.String()
	}
	switch cmd.Name() {
	case "allow":
		rule.Allow = actions
		if deny, _ := flags.GetStringArray("deny"); len(deny) > 0 {
			rule.Deny = deny
		}
	case "deny":
		rule.Deny = actions
	default:
		rule.Boundary = actions
	}
	if rule.GetName() == "" {
		rule.Name = derivedName(rule)
	}
	return rule, nil
}

// commandLine is the command that makes a rule: ruleOf reads exactly the rule
// from it.
func commandLine(r *pb.Rule) string {
	verb, actions := "kith allow", r.GetAllow()
	switch {
	case len(r.GetBoundary()) > 0:
		verb, actions = "kith rules boundary", r.GetBoundary()
	case len(actions) == 0:
		verb, actions = "kith deny", r.GetDeny()
	}
	words := []string{verb}
	sentence := []string{policy.Quote(strings.Join(r.GetFrom(), ","))}
	dashed := false
	for _, action := range actions {
		dashed = dashed || strings.HasPrefix(action, "-")
		sentence = append(sentence, policy.Quote(action))
	}
	sentence = append(sentence, "on", policy.Quote(r.GetTo()))
	flags := lineFlags(r)
	if dashed {
		words = append(append(words, flags...), "--") // a method may begin with -
		return strings.Join(append(words, sentence...), " ")
	}
	return strings.Join(append(append(words, sentence...), flags...), " ")
}

// lineFlags are the flags of a rule's command line.
func lineFlags(r *pb.Rule) (flags []string) {
	add := func(name, value string) { flags = append(flags, "--"+name+"="+policy.Quote(value)) }
	if r.GetName() != derivedName(r) {
		add("name", r.GetName())
	}
	if len(r.GetAllow()) > 0 {
		for _, action := range r.GetDeny() {
			add("deny", action)
		}
	}
	if len(r.GetExcept()) > 0 {
		add("except", strings.Join(r.GetExcept(), ","))
	}
	if r.GetGuardrail() {
		flags = append(flags, "--guardrail")
	}
	if r.GetWhen() != "" {
		add("when", r.GetWhen())
	}
	if r.GetMode() == policy.Shadow.String() {
		flags = append(flags, "--shadow")
	}
	if r.GetOwner() != ownerCLI && r.GetOwner() != "" {
		add("owner", r.GetOwner())
	}
	return flags
}
