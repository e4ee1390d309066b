package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/obs"
)

// versionVerb says which build this is.
func (a *app) versionVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "version", Short: "print the version of this binary", Args: atMost(0),
		Example:     "  kith version\n  kith version -o json",
		Annotations: map[string]string{withoutConfig: ""},
	}
	f := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		v := obs.BuildVersion()
		if *f != asTable {
			return a.print(*f, table{values: v})
		}
		_, err := fmt.Fprintln(a.stdout, v)
		return err
	}
	return cmd
}
