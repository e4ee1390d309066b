package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/policy"
)

// findingView is a finding for machines.
type findingView struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	At       string `json:"at"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	What     string `json:"what"`
	Why      string `json:"why"`
	Fix      string `json:"fix,omitempty"`
}

// rulesLint says what is doubtful in rules.
func (a *app) rulesLint() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lint", Short: "say what is doubtful in rules, by name: what, why, what to type", Args: atMost(0),
		Long: `Look for rules that do not do what they seem to, or open more than they say: those
in force, or with -f those of state files, which needs no server. A warning is
something to change; a note may well be meant. What is said to have no effect can be
taken away without any decision changing. The exit code is 1 when there is a warning
and --strict is given. -o sarif is for code scanning.

The findings:
` + lintList(),
		Example: "  kith rules lint\n  kith rules lint -f acme.yaml --strict\n  kith rules lint -f acme.yaml -o sarif > kith.sarif",
	}
	files := cmd.Flags().StringArrayP("file", "f", nil, "state file or directory to look at instead of the rules in force")
	strict := cmd.Flags().Bool("strict", false, "exit with 1 when there is a warning")
	output := cmd.Flags().StringP("output", "o", "table", "how to print: table, json, yaml or sarif")
	complete(cmd, "output", "table", "json", "yaml", "sarif")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		set, state, err := a.setToLint(cmd, *files)
		if err != nil {
			return err
		}
		found, err := set.Lint()
		if err != nil {
			return placer(state.Line).in(err)
		}
		if err := a.printFindings(*output, findingViews(found, state)); err != nil {
			return err
		}
		if *strict && policy.Refuse(found) != nil {
			return exitError(1)
		}
		return nil
	}
	return cmd
}

// lintList is every kind of finding, one a line.
func lintList() string {
	var b strings.Builder
	for _, k := range policy.Lints() {
		fmt.Fprintf(&b, "  %-24s %s\n", k.ID, k.Why)
	}
	return strings.TrimRight(b.String(), "\n")
}

// setToLint is the rules of files, and where they stand, or those in force.
func (a *app) setToLint(cmd *cobra.Command, files []string) (policy.Set, config.State, error) {
	if len(files) == 0 {
		set, err := a.serverSet(cmd.Context())
		return set, config.State{}, err
	}
	state, err := config.ReadState(files, a.stdin)
	if err != nil {
		return policy.Set{}, state, err
	}
	if state.TrustDomain.IsZero() {
		return policy.Set{}, state, fault.Hint(fault.Invalidf("the state files name no trust domain"), "trust_domain: acme.example at the top of one of them")
	}
	set, err := setOf(state.TrustDomain, state.Objects)
	return set, state, placer(state.Line).in(err)
}

func findingViews(found []policy.Finding, state config.State) []findingView {
	why := map[string]string{}
	for _, k := range policy.Lints() {
		why[k.ID] = k.Why
	}
	views := []findingView{}
	for _, f := range found {
		file, line := state.Line(f.At)
		views = append(views, findingView{f.ID, f.Severity.String(), f.At, file, line, f.What, why[f.ID], f.Fix})
	}
	return views
}

func (a *app) printFindings(output string, views []findingView) error {
	switch output {
	case "json":
		return printJSON(a.stdout, views)
	case "yaml":
		return printYAML(a.stdout, views)
	case "sarif":
		return printJSON(a.stdout, sarifOf(views))
	case "table":
	default:
		return fault.Hint(fault.Invalidf("unknown output %q", output), "-o table, json, yaml or sarif")
	}
	for _, v := range views {
		where := v.At
		if v.File != "" {
			where = fmt.Sprintf("%s:%d: %s", v.File, v.Line, v.At)
		}
		fmt.Fprintf(a.stdout, "%s: %s: %s (%s)\n", visible(where), v.Severity, visible(v.What), v.ID)
		fmt.Fprintf(a.stdout, "  why: %s\n", v.Why)
		if v.Fix != "" {
			fmt.Fprintf(a.stdout, "  fix: %s\n", visible(v.Fix))
		}
	}
	if len(views) == 0 {
		fmt.Fprintln(a.stdout, "nothing doubtful was found")
	}
	return nil
}

// The parts of SARIF 2.1.0 that code scanning reads.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool    sarifTool     `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID   string    `json:"id"`
		Text sarifText `json:"shortDescription"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		Line int `json:"startLine"`
	}
	sarifLogical struct {
		Name string `json:"fullyQualifiedName"`
	}
)

// sarifOf is findings as SARIF.
func sarifOf(views []findingView) sarifLog {
	run := sarifRun{Tool: sarifTool{Driver: sarifDriver{Name: "kith", Version: obs.BuildVersion().Version}}, Results: []sarifResult{}}
	for _, k := range policy.Lints() {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{ID: k.ID, Text: sarifText{k.Why}})
	}
	for _, v := range views {
		text := v.At + ": " + v.What
		if v.Fix != "" {
			text += ". " + v.Fix
		}
		at := sarifLocation{Logical: []sarifLogical{{v.At}}}
		if v.File != "" {
			at.Physical = &sarifPhysical{sarifArtifact{v.File}, sarifRegion{max(v.Line, 1)}}
		}
		run.Results = append(run.Results, sarifResult{v.ID, v.Severity, sarifText{text}, []sarifLocation{at}})
	}
	return sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}
}
