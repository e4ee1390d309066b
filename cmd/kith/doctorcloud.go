package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/federation"
	"github.com/kith-id/kith/internal/oidc"
)

// cloudFlags say whose token is shown to whom.
type cloudFlags struct{ as, token, issuer, audience, resource, caFile, connect string }

// doctorCloud looks at this trust domain as a provider will, before it does.
func (a *app) doctorCloud(provider oidc.Provider) *cobra.Command {
	f := &cloudFlags{}
	name := map[oidc.Provider]string{oidc.AWS: "AWS", oidc.GCP: "Google Cloud", oidc.Azure: "Azure", oidc.Vault: "Vault"}[provider]
	cmd := &cobra.Command{
		Use: string(provider), Args: atMost(0),
		Short: "check whether " + name + " would take our tokens, and say what to type there",
		Long: `Check issuer, discovery document, keys and a token minted just now against the limits
that ` + name + ` documents, and print what to type there. The token is that of this
process, or with --as of a service that you may claim; it is not shown, and sent to
nobody. Exit code 1 if something would be refused.`,
		Example:     fmt.Sprintf("  kith doctor %s --as orders\n  kith doctor %s --token - < token -o json", provider, provider),
		Annotations: map[string]string{withoutConfig: ""},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.as, "as", "", "the service whose token is checked")
	flags.StringVar(&f.token, "token", "", "file with a token to check instead; - for standard input")
	flags.StringVar(&f.issuer, "issuer", "", "the issuer, if not the token's")
	flags.StringVar(&f.audience, "audience", "", "the audience, if not the usual one")
	flags.StringVar(&f.caFile, "ca-file", "", "PEM file of CAs that the issuer's certificate may be of, besides this host's")
	flags.StringVar(&f.connect, "connect", "", "host:port to connect to instead of where the issuer's name leads")
	if provider == oidc.GCP {
		flags.StringVar(&f.resource, "resource", "", "projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/NAME")
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		report, err := a.lintCloud(cmd.Context(), provider, f)
		if err != nil {
			return err
		}
		if err := a.printCloud(report, *output); err != nil {
			return err
		}
		if report.Bad() {
			return exitError(1)
		}
		return nil
	}
	return cmd
}

// lintCloud mints a token and has it checked.
func (a *app) lintCloud(ctx context.Context, provider oidc.Provider, f *cloudFlags) (oidc.Report, error) {
	lint := oidc.Lint{Provider: provider, Issuer: f.issuer, Audience: f.audience, Resource: f.resource, Now: a.now}
	if lint.Audience == "" {
		lint.Audience = oidc.UsualAudience(provider, f.resource)
	}
	var err error
	if f.caFile != "" {
		if lint.Roots, err = federation.ReadRoots(f.caFile); err != nil {
			return oidc.Report{}, fmt.Errorf("--ca-file: %w", err)
		}
	}
	if f.connect != "" {
		lint.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, f.connect)
		}
	}
	if lint.Token, err = a.cloudToken(ctx, f, lint.Audience); err != nil {
		return oidc.Report{}, err
	}
	return lint.Run(ctx), nil
}

// cloudToken is the token to check.
func (a *app) cloudToken(ctx context.Context, f *cloudFlags, audience string) (string, error) {
	switch {
	case f.token != "" && f.as != "":
		return "", fault.Invalidf("--token and --as: one of them")
	case f.token != "":
		from := a.stdin
		if f.token != "-" {
			file, err := os.Open(f.token)
			if err != nil {
				return "", fault.Wrap(fault.NotFound, err)
			}
			defer file.Close()
			from = file
		}
		text, err := io.ReadAll(io.LimitReader(from, maxTokenInput))
		return strings.TrimSpace(string(text)), err
	case audience == "":
		return "", nil // which the lint says
	}
	w, err := a.open(ctx, kith.Config{As: f.as, Calls: true})
	if err != nil {
		return "", fault.Hint(fmt.Errorf("mint a token: %w", err), "on a node with an agent, as a service: --as orders; or --token FILE")
	}
	defer w.Close()
	svid, err := w.JWTSVID(ctx, audience)
	if err != nil {
		return "", fmt.Errorf("mint a token for %s: %w", audience, err)
	}
	return svid.Token(), nil
}

// printCloud prints findings as kith doctor does, and then what to type.
func (a *app) printCloud(report oidc.Report, f format) error {
	d := &diagnosis{app: a, Findings: []finding{}}
	for _, one := range report.Findings {
		d.add(one.Check, one.Outcome, one.Detail, one.Do)
	}
	if f != asTable {
		return a.print(f, table{values: map[string]any{"findings": d.Findings, "commands": report.Commands}})
	}
	if err := d.print(f); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, "\nthen, there:")
	for _, command := range report.Commands {
		fmt.Fprintf(a.stdout, "  %s\n", command)
	}
	return nil
}
