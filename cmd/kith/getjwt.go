package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// maxTokenInput is more than any token has.
const maxTokenInput = 128 << 10

func (a *app) getJWT() *cobra.Command {
	cmd := &cobra.Command{
		Use: "jwt --audience NAME", Short: "fetch a JWT-SVID, or say whose one is", Args: atMost(0),
		Long: `Fetch the JWT-SVID of this process, or with --as the one of a service that you may
claim, for an audience: whom you are going to show it to. It is printed and good for
some minutes; whoever reads it can use it, so do not keep it in a file: ask again.

With --validate read a token from standard input instead, and say whose it is. It
fails unless the token is good now, and for this audience.` + brokerHelp,
		Example: "  curl -H \"Authorization: Bearer $(kith get jwt --as web --audience billing)\" https://billing/\n" +
			"  kith get jwt --as web --audience billing -o json\n  kith get jwt --audience billing --validate < token\n" +
			"  kith get jwt --audience billing --pid 4711 --broker unix:///run/kith/broker/broker.sock",
	}
	as := cmd.Flags().String("as", "", "the service to be")
	audience := cmd.Flags().StringArray("audience", nil, "whom the token is for; may be given more than once")
	validate := cmd.Flags().Bool("validate", false, "read a token from standard input and check it for this audience")
	brokered := &brokerFlags{}
	brokered.add(cmd)
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asked, err := brokered.asked(cmd)
		switch {
		case err != nil:
			return err
		case asked && *validate:
			return usagef(cmd, "--validate asks the own agent, about a token and not about a process")
		}
		if len(*audience) == 0 || *validate && len(*audience) > 1 {
			return usagef(cmd, "got %d audiences; want: %s", len(*audience), cmd.UseLine())
		}
		w, err := a.open(cmd.Context(), kith.Config{As: *as, Calls: true})
		if err != nil {
			return err
		}
		defer w.Close()
		if *validate {
			return a.validateJWT(cmd.Context(), w, (*audience)[0], *f)
		}
		fetch := w.JWTSVID
		if asked {
			fetch = func(ctx context.Context, audience ...string) (*spiffe.JWTSVID, error) {
				return brokered.jwt(ctx, w, audience)
			}
		}
		svid, err := fetch(cmd.Context(), *audience...)
		if err != nil {
			return err
		}
		if *f != asTable {
			values := jwtValues(svid)
			values["token"] = svid.Token()
			return a.print(*f, table{values: values})
		}
		fmt.Fprintf(a.stderr, "%s for %s, %s left\n", svid.ID, strings.Join(svid.Audience, ", "), short(svid.Expiry.Sub(a.now())))
		_, err = fmt.Fprintln(a.stdout, svid.Token())
		return err
	}
	return cmd
}

// validateJWT says whose the token on standard input is.
func (a *app) validateJWT(ctx context.Context, w *kith.Workload, audience string, f format) error {
	text, err := io.ReadAll(io.LimitReader(a.stdin, maxTokenInput))
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return fault.Hint(fault.Invalidf("there is no token on standard input"), "kith get jwt --audience %s --validate < token", audience)
	}
	svid, err := w.ValidateJWT(ctx, token, audience)
	if err != nil {
		return err
	}
	if f != asTable {
		return a.print(f, table{values: jwtValues(svid)})
	}
	fmt.Fprintf(a.stdout, "%s for %s, %s left\n", svid.ID, strings.Join(svid.Audience, ", "), short(svid.Expiry.Sub(a.now())))
	return nil
}

// jwtValues is all that is known of a token, without the token.
func jwtValues(svid *spiffe.JWTSVID) map[string]any {
	return map[string]any{
		"spiffe_id": svid.ID.String(), "audience": svid.Audience,
		"expires_unix": svid.Expiry.Unix(), "claims": svid.Claims(),
	}
}
