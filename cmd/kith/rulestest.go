package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/policy"
)

// vectorView is a checked expectation for machines.
type vectorView struct {
	Name   string `json:"name"`
	At     string `json:"at"`
	OK     bool   `json:"ok"`
	Wrong  string `json:"wrong,omitempty"`
	Effect string `json:"effect,omitempty"`
	Rule   string `json:"rule,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// vectorsView is a whole run for machines.
type vectorsView struct {
	Tests   []vectorView `json:"tests"`
	Passed  int          `json:"passed"`
	Failed  int          `json:"failed"`
	Covered []string     `json:"covered"`
	Missed  []string     `json:"missed"`
}

// rulesTest checks expectations.
func (a *app) rulesTest() *cobra.Command {
	cmd := &cobra.Command{
		Use: "test FILE...", Short: "check what rules must allow and deny, with coverage", Args: atLeast(1),
		Long: `Check files of expectations against the rules in force, or against those of state
files with -f, which needs no server:

  tests:
    - {from: web, call: "GET /v1/orders/7", to: orders, expect: allow, rule: web-reads}
    - {from: web, call: "DELETE /v1/orders/7", to: orders, expect: deny, reason: no_rule}

    - {from: web, call: "POST /v1/orders", to: orders, headers: ["x-env: prod"], expect: allow}

from is a service, a path, a SPIFFE ID or anonymous; rule and reason may be left
out. What conditions read is said by headers, query, host, sni, source, port, at
and claims, as for kith why; what is not said is not there. Coverage names the rules that decided no test. The exit code is 1 when a
test fails or coverage is below --cover.`,
		Example: "  kith rules test orders_test.yaml\n  kith rules test -f acme.yaml tests.yaml --cover 100",
	}
	files := cmd.Flags().StringArrayP("file", "f", nil, "state file or directory to check instead of the rules in force")
	least := cmd.Flags().Int("cover", 0, "percent of the rules that must have decided a test")
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set, err := a.setToTest(cmd.Context(), *files)
		if err != nil {
			return err
		}
		var vectors []config.Vector
		for _, name := range args {
			more, err := config.ReadVectors(name, a.stdin)
			if err != nil {
				return err
			}
			vectors = append(vectors, more...)
		}
		return a.checkVectors(*f, set, vectors, *least)
	}
	return cmd
}

// setToTest is the rules of files, or those in force.
func (a *app) setToTest(ctx context.Context, files []string) (policy.Set, error) {
	if len(files) == 0 {
		return a.serverSet(ctx)
	}
	state, err := config.ReadState(files, a.stdin)
	if err != nil {
		return policy.Set{}, err
	}
	if state.TrustDomain.IsZero() {
		return policy.Set{}, fault.Hint(fault.Invalidf("the state files name no trust domain"), "trust_domain: acme.example at the top of one of them")
	}
	set, err := setOf(state.TrustDomain, state.Objects)
	if err == nil {
		_, err = set.Validate()
	}
	return set, placer(state.Line).in(err)
}

func (a *app) checkVectors(f format, set policy.Set, vectors []config.Vector, least int) error {
	if len(vectors) == 0 {
		return fault.Invalidf("there is no test in these files")
	}
	check := policy.NewVectors(set)
	run := vectorsView{Tests: []vectorView{}}
	for _, v := range vectors {
		view := vectorView{Name: v.Name, At: v.At}
		d, wrong, err := check.Check(v.Vector)
		switch {
		case err != nil:
			view.Wrong = err.Error()
		default:
			view.OK, view.Wrong = wrong == "", wrong
			view.Effect, view.Rule, view.Reason = d.Effect.String(), d.Rule, d.Reason.String()
		}
		if view.OK {
			run.Passed++
		} else {
			run.Failed++
		}
		run.Tests = append(run.Tests, view)
	}
	run.Covered, run.Missed = check.Coverage()
	if err := a.printVectors(f, run); err != nil {
		return err
	}
	covered := 100
	if rules := len(run.Covered) + len(run.Missed); rules > 0 {
		covered = 100 * len(run.Covered) / rules
	}
	switch {
	case run.Failed > 0:
		return exitError(1)
	case covered < least:
		return fault.Hint(fmt.Errorf("%d %% of the rules decided a test, --cover wants %d", covered, least), "add tests that %s decides", run.Missed[0])
	}
	return nil
}

// because is what decided; nothing for a test that could not be asked.
func because(v vectorView) string {
	switch {
	case v.Rule != "":
		return " by rule " + v.Rule
	case v.Reason != "":
		return ": " + v.Reason
	}
	return ""
}

func (a *app) printVectors(f format, run vectorsView) error {
	if f != asTable {
		return a.print(f, table{values: run})
	}
	for _, v := range run.Tests {
		if !v.OK {
			fmt.Fprintf(a.stdout, "FAIL %s: %s: %s%s\n", v.At, visible(v.Name), visible(v.Wrong), because(v))
		}
	}
	fmt.Fprintf(a.stdout, "%d passed, %d failed; %d of %d rules decided a test\n",
		run.Passed, run.Failed, len(run.Covered), len(run.Covered)+len(run.Missed))
	if len(run.Missed) > 0 {
		fmt.Fprintf(a.stdout, "decided no test: %s\n", strings.Join(run.Missed, ", "))
	}
	return nil
}
