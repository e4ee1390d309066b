package main

import (
	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// ownerFile owns what is applied from a file that names no owner.
const ownerFile = "file"

// applyVerb makes the applied state what files say.
func (a *app) applyVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "make nodes, identities, services and rules what a file says", Args: atMost(0),
		Long: `Apply state files in one transaction: all of it or nothing. It touches only
objects of its owner (owner: in the file, or --owner) and deletes only with
--prune. An unknown key is an error that names the line and the nearest key.`,
		Example: `  kith apply -f acme.yaml --dry-run
  kith apply -f acme.yaml --prune
  kith apply -f state.d -f extra.yaml
  cat acme.yaml | kith apply -f -`,
	}
	from, f := addFileFlags(cmd), addChangeFlags(cmd)
	addStrictFlag(cmd, f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.applyFile(cmd, from, f) }
	return cmd
}

// fileFlags say which files are applied and how.
type fileFlags struct {
	files []string
	owner string
	prune bool
}

func addFileFlags(cmd *cobra.Command) *fileFlags {
	f := &fileFlags{}
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "state file or directory, - for standard input (required)")
	cmd.Flags().StringVar(&f.owner, "owner", "", "who owns its objects (default: the file's owner:, else "+ownerFile+")")
	cmd.Flags().BoolVar(&f.prune, "prune", false, "delete objects of this owner that are not in the file")
	return f
}

// addStrictFlag makes what is doubtful an error.
func addStrictFlag(cmd *cobra.Command, f *changeFlags) {
	cmd.Flags().BoolVar(&f.strict, "strict", false, "refuse a change that brings a warning (kith rules lint lists them)")
}

// applyFile reads, checks and sends state files.
func (a *app) applyFile(cmd *cobra.Command, from *fileFlags, f *changeFlags) error {
	if len(from.files) == 0 {
		return usagef(cmd, "say which file: %s -f FILE", cmd.CommandPath())
	}
	state, err := config.ReadState(from.files, a.stdin)
	if err != nil {
		return err
	}
	owner, err := from.ownerOf(state)
	if err != nil {
		return err
	}
	if err := a.sameTrustDomain(cmd, state); err != nil {
		return err
	}
	f.where = state.Line
	return a.change(cmd.Context(), f, &pb.ApplyRequest{Put: state.Objects, Owner: owner, Prune: from.prune})
}

// ownerOf is --owner, else the files' own, else ownerFile. A file cannot be
// applied as somebody else's.
func (f *fileFlags) ownerOf(state config.State) (string, error) {
	owner, err := state.Owner()
	switch {
	case err != nil:
		return "", err
	case owner == "" && f.owner == "":
		return ownerFile, nil
	case owner == "":
		return f.owner, nil
	case f.owner != "" && f.owner != owner:
		err := fault.Conflictf("the file says owner: %s, the command --owner %s", owner, f.owner)
		return "", fault.Hint(err, "leave one of them out")
	}
	return owner, nil
}

// sameTrustDomain refuses a file that was written for another trust domain.
func (a *app) sameTrustDomain(cmd *cobra.Command, state config.State) error {
	if state.TrustDomain.IsZero() {
		return nil
	}
	s, err := a.serverStatus(cmd.Context())
	if err != nil {
		return err
	}
	if want := state.TrustDomain.String(); s.GetTrustDomain() != want {
		err := fault.Conflictf("the file is for trust domain %s, this server is %s", want, s.GetTrustDomain())
		return fault.Hint(err, "change trust_domain: in the file, or apply it on the right server")
	}
	return nil
}
