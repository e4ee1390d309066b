package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/user"
	"strings"
	"testing"
	"time"
)

// writeCertificate is web-cert NAME CERT KEY: a certificate of a CA of its own.
func writeCertificate(args []string) int {
	err := func() error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: args[0]}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{args[0]},
		}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		if err := os.WriteFile(args[1], pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
			return err
		}
		return os.WriteFile(args[2], pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// oidcHost is a server that is an issuer, and a node of it, on one host.
const oidcHost = `exec web-cert oidc.acme.example $HOST/cert.pem $HOST/key.pem
exec sh -c 'sed -e s#HOST#$HOST#g server.yaml > $KITH_CONFIG'
exec kith server &server&
eventually kith status
exec sh -c 'kith join $(kith nodes add here --class vms | grep -o "[^ ]*$")'
exec kith agent &agent&
eventually sh -c 'kith status | grep "^agent here"'
exec kith services add orders --identity /vms/orders --run-as $OIDC_USER
eventually kith get jwt --as orders --audience api://AzureADTokenExchange
`

const oidcConfig = `-- server.yaml --
trust_domain: acme.example
server:
  listen: "127.0.0.1:PORT8440"
  metrics: ""
  oidc: {issuer: "https://oidc.acme.example", web: {listen: "127.0.0.1:PORT8445", cert_file: HOST/cert.pem, key_file: HOST/key.pem}}
agent: {metrics: ""}
`

// Every command of docs/oidc.md runs as it stands, but for where the issuer's name
// leads and which CA knows it.
func TestOIDCPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "oidc.md", "8440", "8445")
	for _, provider := range []string{"aws", "gcp", "azure", "vault"} {
		with := "kith doctor " + provider
		if !strings.Contains(script, with) {
			t.Errorf("the page has no %s", with)
		}
		script = strings.ReplaceAll(script, with+" ", with+" --ca-file $(dirname $KITH_CONFIG)/cert.pem --connect 127.0.0.1:"+env["PORT8445"]+" ")
	}
	config := strings.NewReplacer("PORT8440", env["PORT8440"], "PORT8445", env["PORT8445"]).Replace(oidcConfig)
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	env["OIDC_USER"] = me.Username
	runPage(t, oidcHost, script+config, env)
}
