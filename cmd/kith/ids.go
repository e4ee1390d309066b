package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/pb"
)

// idsVerb lists identities and explains how a process comes by its own.
func (a *app) idsVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ids", Aliases: []string{"id"}, Short: "list identities, explain those of a process; who are admins, and who signs for end users",
	}
	list := a.idsList()
	cmd.AddCommand(list, a.idsExplain(), a.adminsVerb(), a.providersVerb(), a.teamsVerb())
	return listByDefault(cmd, list)
}

// identityView is an issued identity for machines.
type identityView struct {
	ID      string `json:"spiffe_id"`
	Service string `json:"service,omitempty"`
	Rule    string `json:"rule"`
	Node    string `json:"node"`
	Serial  string `json:"serial"`
	Issued  int64  `json:"issued_unix"`
	Expires int64  `json:"expires_unix"`
}

func (a *app) identities(ctx context.Context) ([]*pb.IdentityInfo, error) {
	var reply *pb.ListIdentitiesResponse
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.ListIdentities(ctx, &pb.ListIdentitiesRequest{})
		return err
	})
	return reply.GetIdentities(), err
}

func (a *app) idsList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "list the identities that are alive", Args: atMost(0),
		Example: "  kith ids list\n  kith ids list -o json",
	}
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ids, err := a.identities(cmd.Context())
		if err != nil {
			return err
		}
		views := []identityView{}
		t := table{
			head:  []string{"SPIFFE ID", "SERVICE", "IDENTITY RULE", "NODE", "LEFT"},
			empty: "no identity has been issued yet: kith run --as orders -- ./orders",
		}
		for _, id := range ids {
			views = append(views, identityView{
				id.GetSpiffeId(), id.GetService(), id.GetRule(), id.GetNode(), id.GetSerial(), id.GetIssuedUnix(), id.GetExpiresUnix(),
			})
			service := id.GetService()
			if service == "" {
				service = "-"
			}
			t.rows = append(t.rows, []string{id.GetSpiffeId(), service, id.GetRule(), id.GetNode(), a.rest(id.GetExpiresUnix())})
		}
		t.values = views
		return a.print(*f, t)
	}
	return cmd
}

// explainView is an explanation for machines.
type explainView struct {
	Attributes []attributeView `json:"attributes"`
	Rules      []outcomeView   `json:"rules"`
}

type attributeView struct {
	Name       string `json:"name"`
	Value      string `json:"value"`
	Provenance string `json:"provenance"`
}

type outcomeView struct {
	Rule    string `json:"rule"`
	Outcome string `json:"outcome"`
	Detail  string `json:"detail,omitempty"`
	ID      string `json:"spiffe_id,omitempty"`
}

func (a *app) idsExplain() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain", Short: "show what is known of a process or a pod, and which identity rules match it", Args: atMost(0),
		Long: `Ask the agent of this node what it knows of a process, and for every identity
rule whether it matches, does not match, or which attribute is missing. You see
your own processes; root sees all, and with --object the pods of this node too,
where the agent knows its kubelet (docs/kubernetes.md).`,
		Example: "  kith ids explain --pid 4711\n  kith ids explain --pid $$ --as orders\n  sudo kith ids explain --object pods.core/shop/web-7c9f",
	}
	flags := cmd.Flags()
	pid := flags.Int32("pid", 0, "the process (default: this one's parent)")
	as := flags.String("as", "", "what if it claimed this name, as in kith run --as")
	object := flags.String("object", "", "a pod of this node instead: pods.core/NAMESPACE/NAME")
	uid := flags.String("uid", "", "with --object: the UID it must have; pods.core is enough then")
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		req := &pb.ExplainIdentityRequest{Pid: *pid, As: *as}
		what := ""
		switch {
		case *object != "" && (flags.Changed("pid") || *as != ""):
			return usagef(cmd, "--object is no process: it goes without --pid and --as")
		case *object != "":
			o, err := parseObject(*object, *uid)
			if err != nil {
				return err
			}
			req.Object = &pb.ExplainedObject{Plural: o.Plural, Group: o.Group, Namespace: o.Namespace, Name: o.Name, Uid: o.UID}
			what = *object
		case *uid != "":
			return usagef(cmd, "--uid is of an object: --object is missing")
		default:
			if req.Pid == 0 {
				req.Pid = int32(os.Getppid())
			}
			what = fmt.Sprintf("process %d", req.GetPid())
		}
		var reply *pb.ExplainIdentityResponse
		err := a.withAgent(cmd.Context(), func(ctx context.Context, agent pb.InspectionClient) (err error) {
			reply, err = agent.Explain(ctx, req)
			return err
		})
		if err != nil {
			return err
		}
		return a.printExplain(*f, what, reply)
	}
	return cmd
}

func (a *app) printExplain(f format, what string, r *pb.ExplainIdentityResponse) error {
	v := explainView{Attributes: []attributeView{}, Rules: []outcomeView{}}
	attributes := table{head: []string{"ATTRIBUTE", "VALUE", "PROVENANCE"}, empty: "nothing is known of it"}
	for _, name := range slices.Sorted(maps.Keys(r.GetAttributes())) {
		one := attributeView{name, r.GetAttributes()[name], r.GetProvenance()[name]}
		v.Attributes = append(v.Attributes, one)
		attributes.rows = append(attributes.rows, []string{one.Name, one.Value, one.Provenance})
	}
	rules := table{head: []string{"IDENTITY RULE", "OUTCOME", "SPIFFE ID", "WHY"}, empty: "there are no identity rules"}
	for _, o := range r.GetRules() {
		v.Rules = append(v.Rules, outcomeView{o.GetRule(), o.GetOutcome(), o.GetDetail(), o.GetSpiffeId()})
		rules.rows = append(rules.rows, []string{o.GetRule(), o.GetOutcome(), o.GetSpiffeId(), o.GetDetail()})
	}
	if f != asTable {
		return a.print(f, table{values: v})
	}
	fmt.Fprintln(a.stdout, visible(what))
	if err := a.print(asTable, attributes); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	return a.print(asTable, rules)
}
