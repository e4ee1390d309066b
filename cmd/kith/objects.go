package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// objects fetches applied state of a kind, or of all kinds for "".
func (a *app) objects(ctx context.Context, kind, name string) ([]*pb.Object, error) {
	var reply *pb.ListResponse
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.List(ctx, &pb.ListRequest{Kind: kind, Name: name})
		return err
	})
	if fault.Is(err, fault.NotFound) && fault.HintOf(err) == "" {
		err = fault.Hint(err, "%s", listVerb(kind))
	}
	return reply.GetObjects(), err
}

// listVerb lists what there is of a kind, in words that exist.
func listVerb(kind string) string {
	switch kind {
	case "rule", "service":
		return "kith " + kind + "s list"
	case "federation":
		return "kith federate list"
	case "provider":
		return "kith ids providers list"
	case "team":
		return "kith ids teams list"
	default:
		return "kith status"
	}
}

// someObjects fetches all objects of a kind, or the one that args name.
func (a *app) someObjects(ctx context.Context, kind string, args []string) ([]*pb.Object, error) {
	if len(args) == 0 {
		return a.objects(ctx, kind, "")
	}
	objects, err := a.objects(ctx, kind, args[0])
	if err == nil && len(objects) == 0 {
		err = a.unknown(ctx, kind, args[0])
	}
	return objects, err
}

// listByDefault makes the bare noun mean its list, and a word after it that is
// nearly one of its verbs that verb, misspelt.
func listByDefault(cmd, list *cobra.Command) *cobra.Command {
	cmd.Flags().AddFlagSet(list.Flags())
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			for _, sub := range cmd.Commands() {
				if fault.Nearest(args[0], []string{sub.Name()}) != "" {
					return noSuchVerb(cmd, args)
				}
			}
		}
		return list.Args(cmd, args)
	}
	cmd.RunE = list.RunE
	return cmd
}

// names are the names of all objects of a kind.
func (a *app) names(ctx context.Context, kind string) ([]string, error) {
	objects, err := a.objects(ctx, kind, "")
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(objects))
	for _, o := range objects {
		out = append(out, objectName(o))
	}
	return out, nil
}

// unknown is the error for a name that no object of the kind has.
func (a *app) unknown(ctx context.Context, kind, name string) error {
	err := fault.NotFoundf("there is no %s %q", kind, name)
	if names, listErr := a.names(ctx, kind); listErr == nil {
		if near := fault.Nearest(name, names); near != "" {
			return fault.Hint(err, "did you mean %s?", near)
		}
	}
	return fault.Hint(err, "%s", listVerb(kind))
}

// objectName is the name of an object of any kind.
func objectName(o *pb.Object) string {
	switch {
	case o.GetRule() != nil:
		return o.GetRule().GetName()
	case o.GetService() != nil:
		return o.GetService().GetName()
	case o.GetProvider() != nil:
		return o.GetProvider().GetName()
	case o.GetTeam() != nil:
		return o.GetTeam().GetName()
	case o.GetIdentityRule() != nil:
		return o.GetIdentityRule().GetName()
	case o.GetFederation() != nil:
		return o.GetFederation().GetTrustDomain()
	default:
		return o.GetNodeRule().GetName()
	}
}

// completeNames completes names of objects from the running server.
func (a *app) completeNames(kind string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		if err := a.locate(cmd); err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, err := a.names(cmd.Context(), kind)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
