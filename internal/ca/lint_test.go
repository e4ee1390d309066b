package ca

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// A signer that errs, in each way the profile knows: nothing is released, and
// the journal says that the intent came to nothing.
func TestLintStopsEachDeviation(t *testing.T) {
	f := newFixture(t)
	create := f.create
	foreign := newKey(t).Public()
	for name, c := range map[string]struct {
		lint   string
		change func(*x509.Certificate)
		key    crypto.PublicKey
	}{
		"other ID":         {lint: "svid", change: func(c *x509.Certificate) { c.URIs[0].Path = "/b" }},
		"no path":          {lint: "svid", change: func(c *x509.Certificate) { c.URIs[0].Path = "" }},
		"fragment":         {lint: "svid", change: func(c *x509.Certificate) { c.URIs[0].Fragment = "x" }},
		"two URIs":         {lint: "svid", change: func(c *x509.Certificate) { c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: "a"}) }},
		"no URI":           {lint: "svid", change: func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"a"} }},
		"authority":        {lint: "svid", change: func(c *x509.Certificate) { c.IsCA = true }},
		"keyCertSign":      {lint: "svid", change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }},
		"one purpose":      {lint: "svid", change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }},
		"DNS name":         {lint: "names", change: func(c *x509.Certificate) { c.DNSNames = []string{"a"} }},
		"IP address":       {lint: "names", change: func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }},
		"mail address":     {lint: "names", change: func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b"} }},
		"subject":          {lint: "subject", change: func(c *x509.Certificate) { c.Subject.CommonName = "orders" }},
		"serial":           {lint: "serial", change: func(c *x509.Certificate) { c.SerialNumber = big.NewInt(5) }},
		"longer":           {lint: "validity", change: func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(time.Second) }},
		"earlier":          {lint: "validity", change: func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(-time.Second) }},
		"other key":        {lint: "key", key: foreign},
		"no subject key":   {lint: "key-ids", change: func(c *x509.Certificate) { c.SubjectKeyId = nil }},
		"more key usage":   {lint: "key-usage", change: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyAgreement }},
		"more purposes":    {lint: "extended-key-usage", change: func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageCodeSigning) }},
		"unknown purpose":  {lint: "extended-key-usage", change: func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }},
		"no constraints":   {lint: "constraints", change: func(c *x509.Certificate) { c.BasicConstraintsValid = false }},
		"foreign OID":      {lint: "extensions", change: extra(asn1.ObjectIdentifier{1, 2, 3, 4}, false)},
		"policy extension": {lint: "extensions", change: func(c *x509.Certificate) { c.OCSPServer = []string{"http://a"} }},
		"critical foreign": {lint: "extensions", change: extra(asn1.ObjectIdentifier{2, 5, 29, 99}, true)},
	} {
		f.create = func(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
			wrong := *template
			wrong.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/a"}}
			if c.change != nil {
				c.change(&wrong)
			}
			if c.key != nil {
				key = c.key
			}
			return create(&wrong, parent, key, signer)
		}
		f.entries(t)
		chain, err := f.Sign(t.Context(), request(t, "/a"))
		if chain != nil || err == nil || !strings.Contains(err.Error(), "lint "+c.lint+":") || refusedBy(err) != refusedLint {
			t.Errorf("%s: %v, want lint %s", name, err, c.lint)
		}
		entries := f.entries(t)
		if len(entries) != 2 || entries[0].Kind != LeafEntry || entries[1].Kind != VoidEntry || entries[0].Serial != entries[1].Serial || entries[1].Reason != "lint" {
			t.Errorf("%s: journal has %+v", name, entries)
		}
	}
	f.create = create
	mustSign(t, f, "/a")
}

func extra(oid asn1.ObjectIdentifier, critical bool) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: oid, Critical: critical, Value: []byte{5, 0}}}
	}
}

func TestLintOfIssuingCA(t *testing.T) {
	f := newFixture(t)
	create := f.create
	for name, c := range map[string]struct {
		lint   string
		change func(*x509.Certificate)
	}{
		"path in the ID":   {"authority-id", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/a"}} }},
		"no subject":       {"authority-id", func(c *x509.Certificate) { c.Subject = pkix.Name{} }},
		"DNS name":         {"names", func(c *x509.Certificate) { c.DNSNames = []string{"a"} }},
		"outlives root":    {"validity", func(c *x509.Certificate) { c.NotAfter = f.Root().NotAfter.Add(time.Second) }},
		"no path length":   {"constraints", func(c *x509.Certificate) { c.MaxPathLenZero = false }},
		"no authority":     {"constraints", func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false }},
		"signs handshakes": {"key-usage", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }},
		"name constraints": {"extensions", func(c *x509.Certificate) { c.PermittedURIDomains = []string{"acme.example"} }},
	} {
		f.create = func(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
			wrong := *template
			c.change(&wrong)
			return create(&wrong, parent, key, signer)
		}
		if _, err := f.signIssuing(t.Context(), epoch); err == nil || !strings.Contains(err.Error(), "lint "+c.lint+":") {
			t.Errorf("%s: %v, want lint %s", name, err, c.lint)
		}
	}
}

func TestSignerThatGivesRubbish(t *testing.T) {
	f := newFixture(t)
	create := f.create
	f.create = func(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
		der, err := create(template, parent, key, signer)
		return der[:len(der)-1], err
	}
	if _, err := f.Sign(t.Context(), request(t, "/a")); err == nil || !strings.Contains(err.Error(), "lint parse") {
		t.Errorf("a cut certificate: %v", err)
	}
	// The serial of one, signed as another's.
	chain := func() []byte {
		f.create = create
		return mustSign(t, f, "/a")[0].Raw
	}()
	f.create = func(*x509.Certificate, *x509.Certificate, crypto.PublicKey, crypto.Signer) ([]byte, error) {
		return chain, nil
	}
	if _, err := f.Sign(t.Context(), request(t, "/a")); err == nil {
		t.Error("a certificate made for another request was released")
	}
}

// Only the lints make a linted certificate or token: what is released has been
// linted.
func TestOnlyTheLinterMakesLinted(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	makers := map[string]bool{"lint.go": false, "jwtlint.go": false, "witlint.go": false}
	for _, file := range files {
		name := file.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(node ast.Node) bool {
			literal, ok := node.(*ast.CompositeLit)
			if !ok {
				return true
			}
			generic, ok := literal.Type.(*ast.IndexExpr)
			if !ok {
				return true
			}
			if ident, ok := generic.X.(*ast.Ident); ok && ident.Name == "linted" {
				if _, may := makers[name]; !may {
					t.Errorf("%s makes a linted", name)
				}
				makers[name] = true
			}
			return true
		})
	}
	for name, found := range makers {
		if !found {
			t.Errorf("%s makes none: this test looks for the wrong names", name)
		}
	}
}
