package ca

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Other parties read and verify what is issued.

func writePEM(t *testing.T, dir, name string, certs ...*x509.Certificate) string {
	t.Helper()
	var out []byte
	for _, cert := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openssl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "openssl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func TestOpenSSLVerifies(t *testing.T) {
	f := newFixture(t)
	r := request(t, "/eks/shop/orders")
	r.DNS = []string{"orders.shop.svc"}
	chain, err := f.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root := writePEM(t, dir, "root.pem", f.Root())
	issuing := writePEM(t, dir, "issuing.pem", chain[1])
	leaf := writePEM(t, dir, "leaf.pem", chain[0])
	at := strconv.FormatInt(epoch.Unix(), 10)
	for _, purpose := range []string{"sslserver", "sslclient"} {
		out := openssl(t, "verify", "-x509_strict", "-attime", at, "-purpose", purpose, "-CAfile", root, "-untrusted", issuing, leaf)
		if !strings.Contains(out, "leaf.pem: OK") {
			t.Errorf("%s: %s", purpose, out)
		}
	}
	text := openssl(t, "x509", "-in", leaf, "-noout", "-text")
	for _, want := range []string{
		"URI:spiffe://acme.example/eks/shop/orders", "DNS:orders.shop.svc", "CA:FALSE", "X509v3 Subject Alternative Name: critical",
		"X509v3 Key Usage: critical", "TLS Web Server Authentication, TLS Web Client Authentication", "Issuer: O = acme.example, CN = Kith issuing a",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("openssl does not show %q in:\n%s", want, text)
		}
	}
}

func TestGoSPIFFEVerifies(t *testing.T) {
	f := newFixture(t)
	chain := mustSign(t, f, "/eks/shop/orders")
	td := spiffeid.RequireTrustDomainFromString("acme.example")
	bundle := x509bundle.FromX509Authorities(td, []*x509.Certificate{f.Root()})
	id, _, err := x509svid.Verify(chain, bundle, x509svid.WithTime(epoch))
	if err != nil || id.String() != "spiffe://acme.example/eks/shop/orders" {
		t.Errorf("go-spiffe: %s, %v", id, err)
	}
}
