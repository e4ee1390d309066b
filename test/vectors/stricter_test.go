package vectors

import (
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"math/big"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// expected is one line of the expectation file: what crypto/x509 says to a chain
// for either purpose, and what we say: "" accepts, anything else must be in the
// error. The names are those of x509-limbo where it has the case.
type expected struct {
	Case string `json:"case"`
	X509 bool   `json:"x509_accepts"`
	Kith string `json:"kith_refuses"`
}

// chainOf is a lawful chain but for what a case changes.
type chainOf struct {
	root, issuing, leaf *x509.Certificate
	rootKey, issuingKey crypto.Signer
	leafPublic          crypto.PublicKey
	issuingPublic       crypto.PublicKey
}

var sanID = asn1.ObjectIdentifier{2, 5, 29, 17}

// names writes URI names byte for byte.
func names(critical bool, uris ...string) pkix.Extension {
	var all []asn1.RawValue
	for _, uri := range uris {
		all = append(all, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
	}
	der, _ := asn1.Marshal(all) // raw values always can be
	return pkix.Extension{Id: sanID, Critical: critical, Value: der}
}

func named(uris ...string) func(*testing.T, *chainOf) {
	return func(_ *testing.T, c *chainOf) {
		c.leaf.URIs, c.leaf.ExtraExtensions = nil, []pkix.Extension{names(true, uris...)}
	}
}

func onLeaf(change func(*x509.Certificate)) func(*testing.T, *chainOf) {
	return func(_ *testing.T, c *chainOf) { change(c.leaf) }
}

func onIssuing(change func(*x509.Certificate)) func(*testing.T, *chainOf) {
	return func(_ *testing.T, c *chainOf) { change(c.issuing) }
}

// deviations are the chains of the expectation file.
func deviations() map[string]func(*testing.T, *chainOf) {
	usage := func(u ...x509.ExtKeyUsage) func(*testing.T, *chainOf) {
		return onLeaf(func(l *x509.Certificate) { l.ExtKeyUsage = u })
	}
	return map[string]func(*testing.T, *chainOf){
		"lawful":                       func(*testing.T, *chainOf) {},
		"webpki::ca-as-leaf":           onLeaf(func(l *x509.Certificate) { l.IsCA = true }),
		"rfc5280::leaf-ku-keycertsign": onLeaf(func(l *x509.Certificate) { l.KeyUsage |= x509.KeyUsageCertSign }),
		"leaf-ku-crlsign":              onLeaf(func(l *x509.Certificate) { l.KeyUsage |= x509.KeyUsageCRLSign }),
		"leaf-without-ku":              onLeaf(func(l *x509.Certificate) { l.KeyUsage = 0 }),
		"leaf-ku-encipherment-only":    onLeaf(func(l *x509.Certificate) { l.KeyUsage = x509.KeyUsageKeyEncipherment }),
		"leaf-ku-not-critical":         onLeaf(func(l *x509.Certificate) { l.KeyUsage = 0; l.ExtraExtensions = append(l.ExtraExtensions, weakUsage()) }),
		"webpki::ee-without-eku":       usage(),
		"webpki::ee-anyeku":            usage(x509.ExtKeyUsageAny),
		"ee-eku-server-only":           usage(x509.ExtKeyUsageServerAuth),
		"ee-eku-client-only":           usage(x509.ExtKeyUsageClientAuth),
		"webpki::ee-eku-empty": onLeaf(func(l *x509.Certificate) {
			l.ExtKeyUsage = nil
			l.ExtraExtensions = append(l.ExtraExtensions, emptyEKU())
		}),
		"webpki::forbidden-weak-rsa-leaf": func(t *testing.T, c *chainOf) { c.leafPublic = rsaKey(t, 1024) },
		"forbidden-huge-rsa-leaf":         func(t *testing.T, c *chainOf) { c.leafPublic = rsaKey(t, 8192) },
		"forbidden-rsa-exponent-3":        func(t *testing.T, c *chainOf) { c.leafPublic = &rsa.PublicKey{N: rsaKey(t, 2048).N, E: 3} },
		"forbidden-p224-leaf":             func(t *testing.T, c *chainOf) { c.leafPublic = ecKey(t, elliptic.P224()).Public() },
		"forbidden-p521-leaf":             func(t *testing.T, c *chainOf) { c.leafPublic = ecKey(t, elliptic.P521()).Public() },
		"forbidden-p224-issuing": func(t *testing.T, c *chainOf) {
			c.issuingKey = ecKey(t, elliptic.P224())
			c.issuingPublic = c.issuingKey.Public()
		},
		"forbidden-p521-root":     func(t *testing.T, c *chainOf) { c.rootKey = ecKey(t, elliptic.P521()) },
		"two-uri-sans":            named("spiffe://acme.example/a", "spiffe://acme.example/b"),
		"uri-san-and-https":       named("spiffe://acme.example/a", "https://acme.example/a"),
		"no-uri-san":              onLeaf(func(l *x509.Certificate) { l.URIs, l.DNSNames = nil, []string{"acme.example"} }),
		"root-path":               named("spiffe://acme.example"),
		"trailing-slash":          named("spiffe://acme.example/"),
		"id-with-query":           named("spiffe://acme.example/a?b"),
		"id-with-empty-query":     named("spiffe://acme.example/a?"),
		"id-with-fragment":        named("spiffe://acme.example/a#b"),
		"id-with-empty-fragment":  named("spiffe://acme.example/a#"),
		"id-with-port":            named("spiffe://acme.example:8443/a"),
		"id-with-userinfo":        named("spiffe://root@acme.example/a"),
		"id-with-percent":         named("spiffe://acme.example/%61"),
		"id-with-dots":            named("spiffe://acme.example/b/../a"),
		"id-with-empty-segment":   named("spiffe://acme.example//a"),
		"id-with-upper-domain":    named("spiffe://ACME.example/a"),
		"id-with-upper-scheme":    named("SPIFFE://acme.example/a"),
		"id-of-another-scheme":    named("https://acme.example/a"),
		"id-without-domain":       named("spiffe:///a"),
		"id-of-another-domain":    named("spiffe://evil.example/a"),
		"id-of-confusable-domain": named("spiffe://acme.example.evil/a"),
		"id-too-long":             named("spiffe://acme.example/" + strings.Repeat("a", 2048)),
		"empty-subject-not-critical": onLeaf(func(l *x509.Certificate) {
			l.Subject, l.URIs, l.ExtraExtensions = pkix.Name{}, nil, []pkix.Extension{names(false, "spiffe://acme.example/a")}
		}),
		"issuing-has-a-path": onIssuing(func(i *x509.Certificate) {
			i.URIs = []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/a"}}
		}),
		"issuing-without-ku": onIssuing(func(i *x509.Certificate) { i.KeyUsage = 0 }),
		"issuing-not-a-ca":   onIssuing(func(i *x509.Certificate) { i.IsCA = false; i.KeyUsage = x509.KeyUsageDigitalSignature }),
		"issuing-other-eku":  onIssuing(func(i *x509.Certificate) { i.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }),
		"issuing-expired":    onIssuing(func(i *x509.Certificate) { i.NotAfter = time.Now().Add(-time.Minute) }),
		"constraint-excludes-the-domain": onIssuing(func(i *x509.Certificate) {
			i.ExcludedURIDomains, i.PermittedDNSDomainsCritical = []string{"acme.example"}, true
		}),
		"expired":       onLeaf(func(l *x509.Certificate) { l.NotAfter = time.Now().Add(-time.Minute) }),
		"not-yet-valid": onLeaf(func(l *x509.Certificate) { l.NotBefore = time.Now().Add(time.Hour) }),
		"serial-zero":   onLeaf(func(l *x509.Certificate) { l.SerialNumber = big.NewInt(0) }),
		"unknown-critical-extension": onLeaf(func(l *x509.Certificate) {
			l.ExtraExtensions = append(l.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}})
		}),
		"dns-names-beside-the-id": onLeaf(func(l *x509.Certificate) { l.DNSNames = []string{"orders", "orders.example"} }),
	}
}

// weakUsage is digitalSignature, not critical.
func weakUsage() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 2, 7, 0x80}}
}

func emptyEKU() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{0x30, 0}}
}

// build signs a chain as a case wants it.
func build(t *testing.T, change func(*testing.T, *chainOf)) (chain []*x509.Certificate, root *x509.Certificate) {
	t.Helper()
	now := time.Now()
	authority := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
			URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example"}},
		}
	}
	c := &chainOf{root: authority("root"), issuing: authority("issuing"), rootKey: ecKey(t, elliptic.P256()), issuingKey: ecKey(t, elliptic.P256())}
	c.leafPublic, c.issuingPublic = ecKey(t, elliptic.P256()).Public(), c.issuingKey.Public()
	c.leaf = &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "a"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/a"}},
	}
	change(t, c)
	sign := func(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	root = sign(c.root, c.root, c.rootKey.Public(), c.rootKey)
	issuing := sign(c.issuing, root, c.issuingPublic, c.rootKey)
	return []*x509.Certificate{sign(c.leaf, issuing, c.leafPublic, c.issuingKey), issuing}, root
}

const expectations = "testdata/stricter.json"

// Every chain of the expectation file, and only those, as the file says.
func TestStricterThanTheLibrary(t *testing.T) {
	text, err := os.ReadFile(expectations)
	if err != nil {
		t.Fatal(err)
	}
	var all []expected
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	cases := deviations()
	for _, want := range all {
		change, known := cases[want.Case]
		if !known {
			t.Errorf("%s: no such case", want.Case)
			continue
		}
		delete(cases, want.Case)
		chain, root := build(t, change)
		if got := libraryAccepts(chain, root); got != want.X509 {
			t.Errorf("%s: crypto/x509 accepts: %t, the file says %t", want.Case, got, want.X509)
		}
		_, err := spiffe.Verify(chain, bundleOf(t, root), time.Now())
		switch {
		case want.Kith == "" && err != nil:
			t.Errorf("%s: refused: %v", want.Case, err)
		case want.Kith != "" && (err == nil || !strings.Contains(err.Error(), want.Kith)):
			t.Errorf("%s: got %v, want an error with %q", want.Case, err, want.Kith)
		}
	}
	for name := range cases {
		t.Errorf("%s: not in %s", name, expectations)
	}
}

func libraryAccepts(chain []*x509.Certificate, root *x509.Certificate) bool {
	roots, issuers := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	for _, cert := range chain[1:] {
		issuers.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

// bundleOf trusts the root for acme.example, as evil.example has its own.
func bundleOf(t *testing.T, root *x509.Certificate) func(spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	t.Helper()
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	return spiffe.BundleMap{td: spiffe.NewBundle(td, 1, 0, root)}.Bundle
}
