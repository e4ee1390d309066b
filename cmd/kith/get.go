package main

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/spiffe"
)

// getVerb fetches what the agent has for this process.
func (a *app) getVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "get", Short: "fetch an SVID or the bundle from the agent", Args: noSuchVerb, RunE: helpOnly,
	}
	cmd.AddCommand(a.getSVID(), a.getJWT(), a.getWIT(), a.getBundle())
	return cmd
}

// pemFile is one file of a fetched identity; private ones are 0600.
type pemFile struct {
	name    string
	text    []byte
	private bool
}

func (a *app) getSVID() *cobra.Command {
	cmd := &cobra.Command{
		Use: "svid", Short: "fetch an X.509-SVID", Args: atMost(0),
		Long: `Fetch the X.509-SVID of this process, or with --as the one of a service that you
may claim. Without --dir the certificates are printed and the key is not.

--dir writes svid.pem (leaf first, then the issuing CA), chain.pem (the issuing CA
alone), key.pem, identity.pem (key and certificates in one file) and bundle.pem
(whom to trust). All of them are replaced in one step: each is a link through
"current", which leads to the directory of the identity in force. With --pkcs12
there are identity.p12 and trust.p12 too: a key store and a trust store for Java,
under the password in the first line of that file.

With --watch it stays and writes them again at each renewal, then runs --exec or
sends --signal until that works. Under systemd, Type=notify says when the first
files are there.` + brokerHelp + ` With --watch the files are removed when
that process has ended.`,
		Example: "  kith get svid --as web\n  kith get svid --as web --dir ./web-identity\n  kith get svid --as web -o json\n" +
			"  kith get svid --as orders --dir /etc/nginx/kith --watch --exec 'nginx -s reload'\n" +
			"  kith get svid --dir /etc/haproxy/kith --mode 0640 --owner :haproxy --watch --signal USR2 --pid-file /run/haproxy.pid\n" +
			"  kith get svid --as orders --dir ./tls --pkcs12 ./password --watch\n" +
			"  kith get svid --pid 4711 --broker unix:///run/kith/broker/broker.sock --dir /run/tls/4711 --watch",
	}
	as := cmd.Flags().String("as", "", "the service to be")
	files := &dirFlags{}
	files.add(cmd)
	brokered := &brokerFlags{}
	brokered.add(cmd)
	f := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, err := brokered.asked(cmd)
		if err = errors.Join(files.check(cmd), err); err != nil {
			return err
		}
		log, err := logTo(a.stderr, "info", "text")
		if err != nil {
			return err
		}
		cfg := kith.Config{As: *as, Calls: true}
		if files.watch {
			cfg.Log = log
		}
		w, err := a.open(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		defer w.Close()
		source, release, err := brokered.source(cmd.Context(), cmd, w)
		if err != nil {
			return errors.Join(err, files.forget(err))
		}
		defer release()
		if files.watch {
			return a.watchFiles(cmd.Context(), source, files, log)
		}
		svid, bundle, err := heldBy(source)
		if err != nil {
			return err
		}
		if files.dir != "" {
			return a.writeSVID(files, svid, bundle)
		}
		if *f != asTable {
			return a.print(*f, table{values: map[string]any{
				"spiffe_id": svid.ID.String(), "expires_unix": svid.Expiry().Unix(),
				"serial": svid.Certificates[0].SerialNumber.Text(16),
				"chain":  string(chainPEM(svid)), "bundle": string(bundlePEM(bundle)),
			}})
		}
		fmt.Fprintf(a.stderr, "%s, %s left\n", svid.ID, short(svid.Expiry().Sub(a.now())))
		_, err = a.stdout.Write(chainPEM(svid))
		return err
	}
	return cmd
}

func (a *app) getBundle() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bundle", Short: "fetch the roots of the trust domain", Args: atMost(0),
		Long:    `Fetch the roots by which peers of the own trust domain are known, as PEM.` + brokerHelp,
		Example: "  kith get bundle > roots.pem\n  kith get bundle --pid 4711 --broker unix:///run/kith/broker/broker.sock",
	}
	as := cmd.Flags().String("as", "", "the service to ask as")
	brokered := &brokerFlags{}
	brokered.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		asked, err := brokered.asked(cmd)
		if err != nil {
			return err
		}
		w, err := a.open(cmd.Context(), kith.Config{As: *as, Calls: true})
		if err != nil {
			return err
		}
		defer w.Close()
		var bundle *spiffe.Bundle
		if asked {
			bundle, err = brokered.roots(cmd.Context(), w)
		} else {
			_, bundle, err = heldBy(w)
		}
		if err != nil {
			return err
		}
		_, err = a.stdout.Write(bundlePEM(bundle))
		return err
	}
	return cmd
}

// heldBy is an identity, and by what its peers of the same trust domain are known.
func heldBy(source identitySource) (*spiffe.X509SVID, *spiffe.Bundle, error) {
	svid, err := source.X509SVID()
	if err != nil {
		return nil, nil, err
	}
	bundle, ok := source.Bundle(svid.ID.TrustDomain())
	if !ok {
		return nil, nil, fmt.Errorf("the agent sent no bundle of %s", svid.ID.TrustDomain())
	}
	return svid, bundle, nil
}

// open attaches to the agent of this node. An agent that is just starting is
// waited for, by the SDK.
func (a *app) open(ctx context.Context, cfg kith.Config) (*kith.Workload, error) {
	cfg.Socket, cfg.Now = a.paths.AgentSocket, a.now
	cfg.Version = obs.BuildVersion().Version
	if cfg.Wait == 0 {
		cfg.Wait = 10 * time.Second
	}
	w, err := kith.Open(ctx, cfg)
	if err == nil {
		return w, nil
	}
	if gone := present(a.paths.AgentSocket); gone != nil {
		return nil, noAgent(a.paths.AgentSocket, gone)
	}
	if fault.HintOf(err) == "" {
		err = fault.Hint(err, "kith doctor")
	}
	return nil, err
}

func (a *app) writeSVID(f *dirFlags, svid *spiffe.X509SVID, bundle *spiffe.Bundle) error {
	dir, err := f.open()
	if err != nil {
		return err
	}
	files, err := dir.files(svid, bundle)
	if err != nil {
		return err
	}
	if err := dir.write(files); err != nil {
		return err
	}
	stores := ""
	if dir.password != "" {
		stores = " identity.p12 trust.p12"
	}
	fmt.Fprintf(a.stderr, "%s, %s left: svid.pem chain.pem key.pem identity.pem bundle.pem%s in %s\n",
		svid.ID, short(svid.Expiry().Sub(a.now())), stores, f.dir)
	return nil
}

// replaceFile swaps the file in whole, so that a reader never sees half a key.
func replaceFile(path string, f pemFile) error {
	mode := os.FileMode(0o644)
	if f.private {
		mode = 0o600
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+f.name+"-*") // 0600 from the start
	if err != nil {
		return err
	}
	_, err = tmp.Write(f.text)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

func derOf(svid *spiffe.X509SVID) [][]byte {
	out := make([][]byte, 0, len(svid.Certificates))
	for _, c := range svid.Certificates {
		out = append(out, c.Raw)
	}
	return out
}

func chainPEM(svid *spiffe.X509SVID) []byte { return certificatesPEM(derOf(svid)) }

func bundlePEM(b *spiffe.Bundle) []byte {
	var der [][]byte
	for _, root := range b.Roots() {
		der = append(der, root.Raw)
	}
	return certificatesPEM(der)
}

func certificatesPEM(der [][]byte) []byte {
	var out []byte
	for _, one := range der {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one})...)
	}
	return out
}

func keyPEM(svid *spiffe.X509SVID) ([]byte, error) {
	der, err := svid.MarshalKey()
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
