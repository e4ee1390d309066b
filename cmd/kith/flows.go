package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// flowView is a flow for machines.
type flowView struct {
	From     string   `json:"from,omitempty"`
	To       string   `json:"to"`
	Call     string   `json:"call"`
	Effect   string   `json:"effect"`
	Rule     string   `json:"rule,omitempty"`
	Reason   string   `json:"reason"`
	Count    uint64   `json:"count"`
	First    string   `json:"first"`
	Last     string   `json:"last"`
	Examples []string `json:"examples,omitempty"`
}

func viewFlow(f *pb.Flow) flowView {
	at := func(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }
	return flowView{
		From: f.GetFrom(), To: f.GetTo(), Call: flowCall(f), Effect: f.GetEffect(), Rule: f.GetRule(), Reason: f.GetReason(),
		Count: f.GetCount(), First: at(f.GetFirstUnix()), Last: at(f.GetLastUnix()), Examples: f.GetSamples(),
	}
}

// flowCall is a flow in the words of a rule.
func flowCall(f *pb.Flow) string {
	return call(&pb.Decision{Protocol: f.GetProtocol(), Method: f.GetMethod(), Path: f.GetTemplate(), Port: f.GetPort()})
}

// rulesFlows lists what was really asked.
func (a *app) rulesFlows() *cobra.Command {
	cmd := &cobra.Command{
		Use: "flows", Short: "list what services were really asked, counted", Args: atMost(0),
		Long: `List who asked what of which service, how often, and how it was decided: counted
by the enforcement points, kept by the agents (the latest 16384 of each node, until
the agent restarts) and merged here. Numbers and random names in paths are {id}.`,
		Example: "  kith rules flows\n  kith rules flows --to orders --denied\n  kith rules flows -o json",
	}
	f := outputFlag(cmd)
	to := cmd.Flags().String("to", "", "only those to this service")
	denied := cmd.Flags().Bool("denied", false, "only what was denied")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		reply, err := a.flows(cmd.Context(), *to)
		if err != nil {
			return err
		}
		views := []flowView{}
		t := table{head: []string{"FROM", "CALL", "TO", "EFFECT", "RULE", "COUNT", "LAST"}, empty: "nothing has been asked yet"}
		for _, flow := range reply.GetFlows() {
			if *denied && flow.GetEffect() == policy.Allow.String() {
				continue
			}
			views = append(views, viewFlow(flow))
			t.rows = append(t.rows, []string{
				anonymousOr(flow.GetFrom()), flowCall(flow), flow.GetTo(), flow.GetEffect(), ruleOrReason(flow.GetRule(), flow.GetReason()),
				strconv.FormatUint(flow.GetCount(), 10), a.ago(flow.GetLastUnix()),
			})
		}
		t.values = views
		a.incomplete(reply.GetNodes(), reply.GetAnswered(), reply.GetUncounted())
		return a.print(*f, t)
	}
	return cmd
}

func (a *app) flows(ctx context.Context, to string) (reply *pb.FlowsResponse, err error) {
	err = a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.Flows(ctx, &pb.FlowsRequest{To: to})
		return err
	})
	return reply, err
}

// incomplete warns of what the counts leave out.
func (a *app) incomplete(nodes, answered uint32, uncounted uint64) {
	if answered < nodes {
		fmt.Fprintf(a.stderr, "warning: %d of %d live nodes did not answer; what they counted is missing\n", nodes-answered, nodes)
	}
	if uncounted > 0 {
		fmt.Fprintf(a.stderr, "warning: %d requests fitted no flow and are missing\n", uncounted)
	}
}

func (a *app) ago(unix int64) string {
	d := max(a.now().Sub(time.Unix(unix, 0)), 0).Truncate(time.Second)
	return d.String() + " ago"
}

func anonymousOr(from string) string {
	if from == "" {
		return "anonymous"
	}
	return from
}

func ruleOrReason(rule, reason string) string {
	if rule != "" {
		return rule
	}
	return "(" + reason + ")"
}

// rulesSuggest proposes rules from what was asked.
func (a *app) rulesSuggest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "suggest", Short: "propose the narrowest rules that allow what was seen", Args: atMost(0),
		Long: `Print, as a state file, rules that allow what was allowed so far and nothing else:
one for each caller, service and condition, with the evidence beside each action. Where an
action is wider than what was seen, the comment says how: {id} for segments that
were numbers or random names, {any} where at least --vary different values stood.
With --denied also what was denied, to choose from. Nothing is changed.`,
		Example: "  kith rules suggest --to orders > orders.yaml\n  kith rules suggest --to orders --denied\n  kith plan -f orders.yaml",
	}
	to := cmd.Flags().String("to", "", "only rules to this service")
	denied := cmd.Flags().Bool("denied", false, "also what was denied")
	f := outputFlag(cmd)
	*f, cmd.Flags().Lookup("output").DefValue = asYAML, string(asYAML)
	vary := cmd.Flags().Int("vary", 8, "so many different values in one place of a path become {any}; 0: never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		reply, err := a.flows(cmd.Context(), *to)
		if err != nil {
			return err
		}
		var flows []policy.Flow
		seen := uint64(0)
		for _, m := range reply.GetFlows() {
			f, err := policy.FlowFromPB(m)
			if err != nil {
				return err
			}
			if *denied || f.Effect == policy.Allow {
				flows, seen = append(flows, f), seen+f.Count
			}
		}
		set, err := a.serverSet(cmd.Context())
		if err != nil {
			return err
		}
		names, err := callerNames(set)
		if err != nil {
			return err
		}
		suggested := policy.Suggest(flows, policy.SuggestOptions{Vary: *vary, Name: names, Condition: func(rule string) (string, bool) {
			r, there := set.Rules[rule]
			return r.When, there
		}})
		if len(suggested) == 0 {
			return fault.Hint(fault.NotFoundf("nothing was seen that could be allowed"), "kith rules flows, or with --denied what was denied")
		}
		a.incomplete(reply.GetNodes(), reply.GetAnswered(), reply.GetUncounted())
		if *f == asYAML {
			return a.printSuggestions(suggested, seen)
		}
		return a.print(*f, suggestionTable(suggested))
	}
	return cmd
}

// callerNames names callers as rules do: the service whose only ID it is, else the
// path in the own trust domain, else the whole ID. A service with other IDs too
// would be more than was seen.
func callerNames(set policy.Set) (func(spiffe.ID) string, error) {
	byID := make(map[spiffe.ID]string)
	for name, service := range set.Services {
		ids, err := service.IDs(set.TrustDomain)
		if err != nil {
			return nil, err
		}
		if len(ids) == 1 && (byID[ids[0]] == "" || name < byID[ids[0]]) {
			byID[ids[0]] = name
		}
	}
	return func(id spiffe.ID) string {
		switch name := byID[id]; {
		case name != "":
			return name
		case id.TrustDomain() == set.TrustDomain:
			return id.Path()
		}
		return id.String()
	}, nil
}

// serverSet is the server's services and rules.
func (a *app) serverSet(ctx context.Context) (policy.Set, error) {
	status, err := a.serverStatus(ctx)
	if err != nil {
		return policy.Set{}, err
	}
	td, err := spiffe.ParseTrustDomain(status.GetTrustDomain())
	if err != nil {
		return policy.Set{}, err
	}
	objects, err := a.objects(ctx, "", "")
	if err != nil {
		return policy.Set{}, err
	}
	set, err := setOf(td, objects)
	set.Unprovable = !status.GetWit()
	return set, err
}

// setOf is the services and rules among objects.
func setOf(td spiffe.TrustDomain, objects []*pb.Object) (policy.Set, error) {
	set := policy.Set{TrustDomain: td, Services: make(map[string]policy.Service), Rules: make(map[string]policy.Rule), Teams: make(map[string]policy.Team)}
	for _, o := range objects {
		if m := o.GetTeam(); m != nil {
			team, err := policy.TeamFromPB(m)
			if err != nil {
				return set, err
			}
			set.Teams[team.Name] = team
		}
		if m := o.GetService(); m != nil {
			service, err := policy.ServiceFromPB(m)
			if err != nil {
				return set, err
			}
			set.Services[service.Name] = service
		}
		if m := o.GetRule(); m != nil {
			rule, err := policy.RuleFromPB(m)
			if err != nil {
				return set, err
			}
			set.Rules[rule.Name] = rule
		}
	}
	for _, s := range set.Services {
		if _, ok := set.Teams[s.Team]; !ok && s.Team != "" {
			set.Teams[s.Team] = policy.Team{Name: s.Team} // who the teams are is the admins' to say, elsewhere
		}
	}
	return set, nil
}

// calls counts them in words.
func calls(n uint64) string {
	if n == 1 {
		return "1 call"
	}
	return fmt.Sprintf("%d calls", n)
}

// suggestedAction is an action of a suggested rule, for machines.
type suggestedAction struct {
	Rule    string   `json:"rule"`
	From    []string `json:"from"`
	To      string   `json:"to"`
	Allow   string   `json:"allow"`
	When    string   `json:"when,omitempty"` // the condition under which it was allowed
	Calls   uint64   `json:"calls"`
	Last    string   `json:"last"`
	Samples []string `json:"samples,omitempty"`
	Wider   []string `json:"wider,omitempty"` // where it allows more than was seen
}

// suggestionTable is the suggestions as a list, one action a row.
func suggestionTable(suggested []policy.Suggestion) table {
	values := []suggestedAction{}
	out := table{head: []string{"RULE", "FROM", "ACTION", "TO", "CALLS", "WHEN", "WIDER THAN SEEN"}}
	for _, s := range suggested {
		for _, e := range s.Evidence {
			values = append(values, suggestedAction{
				Rule: s.Rule.Name, From: s.Rule.From, To: s.Rule.To, Allow: e.Action, When: s.Rule.When, Calls: e.Calls,
				Last: time.Unix(e.Last, 0).UTC().Format(time.RFC3339), Samples: e.Samples, Wider: e.Wider,
			})
			out.rows = append(out.rows, []string{s.Rule.Name, strings.Join(s.Rule.From, ","), e.Action, s.Rule.To, strconv.FormatUint(e.Calls, 10), s.Rule.When, strings.Join(e.Wider, ", ")})
		}
	}
	out.values = values
	return out
}

// printSuggestions writes a state file with the evidence as comments.
func (a *app) printSuggestions(suggested []policy.Suggestion, seen uint64) error {
	fmt.Fprintln(a.stdout, "# Suggested from what was seen; read it before kith plan -f and kith apply -f.")
	covered := uint64(0)
	for _, s := range suggested {
		for _, e := range s.Evidence {
			covered += e.Calls
		}
	}
	fmt.Fprintf(a.stdout, "# These rules cover %d of %s seen.\n", covered, calls(seen))
	if covered < seen {
		fmt.Fprintln(a.stdout, "# The others had callers without an identity, or paths that no rule can say.")
	}
	for _, s := range suggested {
		for _, e := range s.Evidence {
			fmt.Fprintf(a.stdout, "# %s: %s, last %s", inLine(e.Action), calls(e.Calls), time.Unix(e.Last, 0).UTC().Format(time.RFC3339))
			if len(e.Samples) > 0 {
				fmt.Fprintf(a.stdout, ", as in %s", inLine(strings.Join(e.Samples, " ")))
			}
			fmt.Fprintln(a.stdout)
			for _, wider := range e.Wider {
				fmt.Fprintf(a.stdout, "#   wider than seen: %s\n", wider)
			}
		}
	}
	var objects []*pb.Object
	for _, s := range suggested {
		objects = append(objects, &pb.Object{Kind: &pb.Object_Rule{Rule: s.Rule.PB()}})
	}
	text, err := config.EncodeState(config.State{Objects: objects})
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(slices.Clip(text))
	return err
}
