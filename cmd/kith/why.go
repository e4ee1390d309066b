package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// whyVerb explains decisions.
func (a *app) whyVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why last | DECISION | FROM ACTION on TO | --pid N",
		Short: "say who was allowed or denied, by which rule, on what evidence",
		Long: `Explain the latest decision, one by its id (the kith-decision header and the body
of a 403 carry it), or what would be decided for a call that has not happened.

What conditions read of such a call is what the flags say, and now for the time: a
header that no flag names is not there, nor is a user's token without --claims or
--token. Of a token its claims are read; whether it is genuine is not asked.

--pid explains a process of this node: its identities and the rules that give them,
or the identity rule that came closest, and what was found out about it. You may ask
for your own processes, root for all.`,
		Example: `  kith why last
  kith why last --denied -n 5
  kith why k2m4x7q3abcd5efg
  kith why web "GET /v1/orders/7" on orders
  kith why --from web --to orders --method GET --path /v1/orders/7
  kith why web "GET /v1/orders/7?dry=1" on orders --header "x-env: prod" --source 10.1.2.3
  kith why web "GET /v1/orders/7" on orders --at 2027-01-01T03:00:00Z --claims '{"scope": "read"}'
  kith why --pid 4711`,
	}
	denied := cmd.Flags().Bool("denied", false, "with last: only denials")
	limit := cmd.Flags().Uint32P("number", "n", 1, "with last: how many")
	from := cmd.Flags().String("from", "", "who would call: a service, a path or an ID")
	to := cmd.Flags().String("to", "", "the service that would be called")
	method := cmd.Flags().String("method", "GET", "with --path")
	path := cmd.Flags().String("path", "", "what would be asked for; none: a connection")
	pid := cmd.Flags().Int32("pid", 0, "a process of this node, whose identity is to be explained")
	as := cmd.Flags().String("as", "", "with --pid: what if it claimed this name, as in kith run --as")
	supposed := a.supposeFlags(cmd)
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && cmd.Flags().Changed("pid"):
			return a.whyProcess(cmd.Context(), *f, *pid, *as)
		case len(args) == 0 && *from != "" && *to != "":
			action := "tcp"
			if *path == "" && cmd.Flags().Changed("method") {
				return usagef(cmd, "a method and no path: --path /v1/orders/7")
			}
			if *path != "" {
				action = *method + " " + *path
			}
			return a.whyIf(cmd, *f, supposed, *from, action, *to)
		case len(args) == 4 && args[2] == "on":
			return a.whyIf(cmd, *f, supposed, args[0], args[1], args[3])
		case len(args) != 1:
			return usagef(cmd, `want: last, a decision id, or FROM "ACTION" on TO`)
		}
		req := &pb.WhyRequest{Id: args[0]}
		switch {
		case args[0] == "last":
			req = &pb.WhyRequest{Last: *limit <= 1, Limit: *limit, DeniedOnly: *denied}
		case !isDecisionID(args[0]):
			err := fault.Invalidf("%q is no decision: an id has 16 characters of a-z and 2-7", args[0])
			return fault.Hint(err, `kith why last; of a service, what would be decided: kith why %s "GET /" on TO`, args[0])
		}
		decisions, err := a.decisions(cmd.Context(), req)
		if err != nil {
			return err
		}
		return a.printDecisions(cmd.Context(), *f, decisions)
	}
	return cmd
}

// isDecisionID reports whether text can be the id of a decision.
func isDecisionID(text string) bool {
	return len(text) == 16 && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// decisions asks the server, which asks the nodes, newest first.
func (a *app) decisions(ctx context.Context, req *pb.WhyRequest) ([]*pb.Decision, error) {
	var reply *pb.WhyResponse
	err := a.withAdmin(ctx, func(ctx context.Context, admin pb.AdminClient) (err error) {
		reply, err = admin.Why(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(reply.GetDecisions()) == 0 {
		if req.GetId() != "" {
			return nil, fault.Hint(fault.NotFoundf("no node remembers decision %s", req.GetId()), "kith why last")
		}
		return nil, fault.Hint(fault.NotFoundf("no decision has been made yet"), "kith curl --as web http://orders/")
	}
	return reply.GetDecisions(), nil
}

// whyIf asks what would be decided.
func (a *app) whyIf(cmd *cobra.Command, f format, supposed *supposition, from, action, to string) error {
	action, query, _ := strings.Cut(action, "?")
	asked, err := policy.ParseCall(action)
	if err != nil {
		return err
	}
	req := &pb.TestRequest{From: from, To: to, Method: asked.Method, Path: asked.Path, Port: uint32(asked.Port)}
	if asked.Protocol != policy.HTTP {
		req.Protocol = asked.Protocol.String()
	}
	req.Query = query
	if err := supposed.fill(req); err != nil {
		return err
	}
	var d *pb.Decision
	err = a.withAdmin(cmd.Context(), func(ctx context.Context, admin pb.AdminClient) (err error) {
		d, err = admin.Test(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	return a.printDecisions(cmd.Context(), f, []*pb.Decision{d})
}

// decisionView is a decision for machines.
type decisionView struct {
	ID       string `json:"id,omitempty"`
	Time     string `json:"time,omitempty"`
	Effect   string `json:"effect"`
	Reason   string `json:"reason"`
	Rule     string `json:"rule,omitempty"`
	Revision uint64 `json:"revision"`
	From     string `json:"from,omitempty"`
	To       string `json:"to"`
	ToID     string `json:"to_id,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Method   string `json:"method,omitempty"`
	Path     string `json:"path,omitempty"`
	Port     uint32 `json:"port,omitempty"`
	Node     string `json:"node,omitempty"`
	Observed bool   `json:"observed,omitempty"`
	Shadow   string `json:"shadow,omitempty"`
	NearRule string `json:"near_rule,omitempty"`
	NearWhy  string `json:"near_why,omitempty"`
	Fix      string `json:"fix,omitempty"`
}

func viewDecision(d *pb.Decision) decisionView {
	v := decisionView{
		ID: d.GetId(), Effect: d.GetEffect(), Reason: d.GetReason(), Rule: d.GetRule(), Revision: d.GetRevision(),
		From: d.GetFrom(), To: d.GetTo(), ToID: d.GetToId(), Protocol: d.GetProtocol(), Method: d.GetMethod(),
		Path: d.GetPath(), Port: d.GetPort(), Node: d.GetNode(), Observed: d.GetObserved(), Shadow: shadowText(d), NearRule: d.GetNearRule(), NearWhy: nearMiss(d), Fix: d.GetHint(),
	}
	if d.GetTimeUnixNano() != 0 {
		v.Time = time.Unix(0, d.GetTimeUnixNano()).UTC().Format(time.RFC3339Nano)
	}
	return v
}

func (a *app) printDecisions(ctx context.Context, f format, decisions []*pb.Decision) error {
	if f != asTable {
		views := make([]decisionView, 0, len(decisions))
		for _, d := range decisions {
			views = append(views, viewDecision(d))
		}
		return a.print(f, table{values: views})
	}
	for i, d := range decisions {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := a.printDecision(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// printDecision says who, what, by which rule, on what evidence.
func (a *app) printDecision(ctx context.Context, d *pb.Decision) error {
	verdict := "denied"
	if d.GetEffect() == "allow" {
		verdict = "allowed"
	}
	if d.GetTimeUnixNano() == 0 {
		verdict = "would be " + verdict
	}
	fmt.Fprintf(a.stdout, "%s: %s on %s\n", verdict, inLine(call(d)), inLine(d.GetTo()))
	when := ""
	if d.GetTimeUnixNano() != 0 {
		when = time.Unix(0, d.GetTimeUnixNano()).UTC().Format("2006-01-02 15:04:05.000Z")
		if d.GetNode() != "" {
			when += " on node " + d.GetNode()
		}
	}
	return facts(a.stdout,
		"  who", who(d),
		"  rule", a.ruleText(ctx, d),
		"  reason", reasonText(d),
		"  observed", observedText(d),
		"  shadow", shadowText(d),
		"  nearest", nearMiss(d),
		"  evidence", a.evidence(ctx, d),
		"  when", when,
		"  decision", d.GetId(),
		"  revision", revisionText(d.GetRevision()),
		"  to allow it", d.GetHint(),
		"  to lift it", liftText(d),
	)
}

// observedText says that a denial does not hold.
func observedText(d *pb.Decision) string {
	if !d.GetObserved() {
		return ""
	}
	return fmt.Sprintf("%s is in observe mode; enforced, this would be denied", d.GetTo())
}

// shadowText says what rules in shadow mode would change.
func shadowText(d *pb.Decision) string {
	switch d.GetShadowEffect() {
	case "":
		return ""
	case "allow":
		return fmt.Sprintf("rule %s would allow it", d.GetShadowRule())
	default:
		return fmt.Sprintf("rule %s would deny it", d.GetShadowRule())
	}
}

// revisionText is empty for a decision without a policy.
func revisionText(revision uint64) string {
	if revision == 0 {
		return ""
	}
	return strconv.FormatUint(revision, 10)
}

// call is the request in the words of a rule.
func call(d *pb.Decision) string {
	switch d.GetProtocol() {
	case "tcp":
		if d.GetPort() != 0 {
			return fmt.Sprintf("tcp %d", d.GetPort())
		}
		return "tcp"
	case "grpc":
		return "grpc " + strings.TrimPrefix(d.GetPath(), "/")
	}
	return strings.TrimSpace(d.GetMethod() + " " + d.GetPath())
}

func who(d *pb.Decision) string {
	if d.GetFrom() == "" {
		return "anonymous: no client certificate"
	}
	return d.GetFrom()
}

// ruleText is the deciding rule with what it says, as far as it still exists.
func (a *app) ruleText(ctx context.Context, d *pb.Decision) string {
	if d.GetRule() == "" {
		return ""
	}
	objects, err := a.objects(ctx, "rule", d.GetRule())
	if err != nil || len(objects) == 0 {
		return d.GetRule() + " (removed since)"
	}
	r := proto.CloneOf(objects[0].GetRule())
	if len(r.GetDeny()) > 0 && d.GetEffect() != "allow" {
		r.Allow = nil
	}
	name := r.GetName()
	r.Name, r.Owner = "", ""
	r.Name = derivedName(r)
	line := strings.TrimPrefix(strings.TrimPrefix(commandLine(r), "kith "), "rules ")
	return name + ": " + line
}

// liftText is the command that says what else a denial by a rule holds back: an
// allow rule cannot outvote it.
func liftText(d *pb.Decision) string {
	if d.GetHint() != "" || d.GetRule() == "" || d.GetEffect() == "allow" {
		return ""
	}
	return "kith rules rm " + d.GetRule() + " --dry-run   # names the calls that this rule holds back"
}

// evidence is how the caller came by its identity.
func (a *app) evidence(ctx context.Context, d *pb.Decision) string {
	if d.GetFrom() == "" || d.GetTimeUnixNano() == 0 {
		return ""
	}
	ids, err := a.identities(ctx)
	if err != nil {
		return ""
	}
	for _, id := range ids {
		if id.GetSpiffeId() == d.GetFrom() {
			return fmt.Sprintf("mutual TLS with an X.509-SVID issued by identity rule %q on attested node %s, serial %s, %s left",
				id.GetRule(), id.GetNode(), id.GetSerial(), a.rest(id.GetExpiresUnix()))
		}
	}
	return "mutual TLS with an X.509-SVID of this trust domain"
}

// reasonText is the closed set of reasons in words.
func reasonText(d *pb.Decision) string {
	words := map[string]string{
		"allow_rule":           "an allow rule matches",
		"deny_rule":            "a deny rule matches; deny beats allow",
		"no_rule":              "no rule allows it",
		"no_source":            "no rule is about this caller",
		"own_check":            "a rule allows it, but the service's own check does not",
		"path_not_canonical":   "the path can be read in two ways",
		"unknown_trust_domain": "the caller is of an unknown trust domain",
		"no_policy":            "the enforcement point has no policy for the service",
		"guardrail_deny":       "a guardrail of the platform matches",
		"outside_boundary":     "outside the boundary of the platform",
		"peer_revoked":         "the caller's identity was revoked",
		"cond_false":           "a rule would allow it, but its condition does not hold",
		"cond_error":           "a condition could not be evaluated",
		"token_missing":        "a rule would allow it with a user's token, and there is none",
		"token_invalid":        "the user's token is not valid",
		"external_deny":        "a rule allows it, but the external decision does not",
	}
	if text := words[d.GetReason()]; text != "" {
		return d.GetReason() + ": " + text
	}
	return d.GetReason()
}

// nearMiss names the rule that came closest and what failed.
func nearMiss(d *pb.Decision) string {
	switch {
	case d.GetNearField() == "protocol":
		return fmt.Sprintf("none: %s speaks %s, and this is %s", d.GetTo(), d.GetNearWant(), d.GetNearGot())
	case d.GetNearRule() == "":
		return ""
	}
	if d.GetNearField() == "when" {
		return fmt.Sprintf("rule %s, but when %s: %s", d.GetNearRule(), d.GetNearWant(), d.GetNearGot())
	}
	return fmt.Sprintf("rule %s, but %s is %q, not %q", d.GetNearRule(), d.GetNearField(), d.GetNearGot(), d.GetNearWant())
}
