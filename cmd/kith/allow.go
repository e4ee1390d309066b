package main

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// allowVerb lets a source do something on a service.
func (a *app) allowVerb() *cobra.Command {
	return a.ruleVerb(&cobra.Command{
		Use:   `allow FROM ACTION... on TO`,
		Short: "let one service do something on another one",
		Example: `  kith allow web "GET /v1/orders/{**}" on orders
  kith allow web "GET,HEAD /v1/orders/{id}" "POST /v1/orders" on orders --name web-reads
  kith allow batch "grpc orders.v1.Orders/*" on orders
  kith allow orders tcp on postgres
  kith allow web "GET /v1/prices" on orders --when 'request.headers["x-env"] == "prod"'
  kith allow "/vms/*" "GET /healthz" on orders --dry-run`,
	})
}

// ruleVerb makes allow, deny and boundary, which differ in one field of the rule.
func (a *app) ruleVerb(cmd *cobra.Command) *cobra.Command {
	cmd.Long = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + `.

FROM is a service, an ID pattern (/vms/web, /vms/*, /vms/**), any or anonymous;
several are joined by commas. An ACTION is "METHOD[,METHOD] /path/template" with
{x} for one segment and {**} for any number, "grpc pkg.Service/Method", tcp or
"tcp PORT". --when adds a condition in CEL (docs/policy.md); --shadow computes and
reports what the rule would do, and enforces nothing. A deny beats every allow. The command returns when all live nodes
enforce the rule, also on connections that are open already.`
	f := addChangeFlags(cmd)
	addRuleFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rule, err := ruleOf(cmd, args)
		if err != nil {
			return err
		}
		replace, _ := cmd.Flags().GetBool("replace")
		return a.change(cmd.Context(), f, &pb.ApplyRequest{
			Put:        []*pb.Object{{Kind: &pb.Object_Rule{Rule: rule}}},
			Owner:      rule.GetOwner(),
			CreateOnly: cmd.Flags().Changed("name") && !replace,
			Declare:    bareNames(append(append([]string{rule.GetTo()}, rule.GetFrom()...), rule.GetExcept()...)),
		})
	}
	return cmd
}

// sentence reads FROM ACTION... on TO.
func sentence(cmd *cobra.Command, args []string) (from, actions []string, to string, err error) {
	if len(args) < 4 || args[len(args)-2] != "on" {
		return nil, nil, "", usagef(cmd, `want FROM "ACTION" on TO, as in: %s web "GET /v1/orders/{**}" on orders`, cmd.CommandPath())
	}
	for _, text := range args[1 : len(args)-2] {
		if _, err := policy.ParseAction(text); err != nil {
			return nil, nil, "", err
		}
		actions = append(actions, text)
	}
	return strings.Split(args[0], ","), actions, args[len(args)-1], nil
}

// derivedName names a rule by what it says, so that the same words are the
// same rule and other words are another one: web-orders-k3f9q.
func derivedName(r *pb.Rule) string {
	text := strings.Join([]string{
		strings.Join(r.GetFrom(), ","), r.GetTo(), strings.Join(r.GetAllow(), "\n"),
		strings.Join(r.GetDeny(), "\n"), strings.Join(r.GetExcept(), ","),
	}, "\x00")
	if r.GetWhen() != "" || r.GetMode() != "" {
		text += "\x00" + r.GetWhen() + "\x00" + r.GetMode()
	}
	if len(r.GetBoundary()) > 0 {
		text += "\x00boundary\x00" + strings.Join(r.GetBoundary(), "\n")
	}
	sum := sha256.Sum256([]byte(text))
	tail := strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:5]
	words := []string{slug(r.GetFrom()[0]), slug(r.GetTo()), tail}
	switch {
	case len(r.GetBoundary()) > 0:
		words = append([]string{"boundary"}, words...)
	case len(r.GetDeny()) > 0:
		words = append([]string{"deny"}, words...)
	}
	return strings.Join(words, "-")
}

// slug is what of a pattern can stand in a name: /vms/* gives vms.
func slug(pattern string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r == '/', r == '.', r == '_':
			return '-'
		}
		return -1
	}, pattern)
	clean = strings.Trim(clean, "-")
	if clean == "" {
		return "all"
	}
	return strings.TrimRight(clean[:min(len(clean), 24)], "-")
}

// bareNames are the words that are service names: kith dev declares unknown
// ones on first use, every other server refuses them.
func bareNames(words []string) []string {
	var names []string
	for _, w := range words {
		if w != "any" && w != "anonymous" && !strings.ContainsAny(w, "/*:") {
			names = append(names, w)
		}
	}
	return names
}
