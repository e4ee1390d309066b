package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
)

// witPatience is how long the agent may take to have a first WIT-SVID signed.
const witPatience = 15 * time.Second

func (a *app) getWIT() *cobra.Command {
	cmd := &cobra.Command{
		Use: "wit", Short: "fetch a WIT-SVID", Args: atMost(0),
		Long: `Fetch the WIT-SVID of this process, or with --as the one of a service that you may
claim: an identity as a token that is bound to a key. Whoever shows it must prove to
hold the key, so it is no bearer token and nobody accepts it in an Authorization
header; docs/wimse.md tells how it is shown. It is there where features.wit is on.

Without --dir the token is printed and the key is not. --dir writes wit.jwt and
key.jwk, the private key, mode 0600.`,
		Example: "  kith get wit --as web\n  kith get wit --as web --dir ./web-wit\n  kith get wit --as web -o json",
	}
	as := cmd.Flags().String("as", "", "the service to be")
	dir := cmd.Flags().String("dir", "", "write token and key into this directory, which must exist")
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w, err := a.open(cmd.Context(), kith.Config{As: *as, Calls: true})
		if err != nil {
			return err
		}
		defer w.Close()
		limit, cancel := context.WithTimeout(cmd.Context(), witPatience)
		defer cancel()
		svid, err := w.WITSVID(limit)
		if err != nil {
			return err
		}
		left := short(svid.Expiry.Sub(a.now()))
		if *dir != "" {
			key, err := svid.Key().MarshalJWK()
			if err != nil {
				return err
			}
			for _, file := range []pemFile{{"wit.jwt", []byte(svid.Token() + "\n"), false}, {"key.jwk", append(key, '\n'), true}} {
				if err := replaceFile(filepath.Join(*dir, file.name), file); err != nil {
					return err
				}
			}
			fmt.Fprintf(a.stderr, "%s, %s left: wit.jwt key.jwk in %s\n", svid.ID, left, *dir)
			return nil
		}
		if *f != asTable {
			return a.print(*f, table{values: map[string]any{
				"spiffe_id": svid.ID.String(), "expires_unix": svid.Expiry.Unix(), "token": svid.Token(), "proof_alg": svid.ProofAlgorithm(),
			}})
		}
		fmt.Fprintf(a.stderr, "%s, %s left\n", svid.ID, left)
		_, err = fmt.Fprintln(a.stdout, svid.Token())
		return err
	}
	return cmd
}
