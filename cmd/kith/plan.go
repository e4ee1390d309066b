package main

import (
	"github.com/spf13/cobra"
)

// planVerb is apply without applying.
func (a *app) planVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan -f FILE", Short: "show what kith apply would change, and what is doubtful in it", Args: atMost(0),
		Long: `Check a state file as kith apply would, and print each object that would be
created, changed or (with --prune) deleted, with its lines, and warnings: rules
that can collide, shadow each other or match nothing, and how many nodes can mint
each ID. Nothing is changed.`,
		Example: "  kith plan -f acme.yaml\n  kith plan -f acme.yaml --prune -o json",
	}
	from := addFileFlags(cmd)
	f := &changeFlags{dryRun: true, format: outputFlag(cmd)}
	addStrictFlag(cmd, f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.applyFile(cmd, from, f) }
	return cmd
}
