package spiffe_test

import (
	"bytes"
	"crypto/x509"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// refused runs a chain through Verify and wants an error that says why.
func refused(t *testing.T, a *authority, why string, chain ...*x509.Certificate) {
	t.Helper()
	id, err := a.verify(chain...)
	if err == nil {
		t.Fatalf("Verify = %s, want an error with %q", id, why)
	}
	if !id.IsZero() {
		t.Errorf("Verify gave the ID %s beside the error %v", id, err)
	}
	if !strings.Contains(err.Error(), why) {
		t.Errorf("error is %q, want it to say %q", err, why)
	}
}

func TestVerifyChain(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child()
	leaf := issuing.leaf("/a/b")
	for name, chain := range map[string][]*x509.Certificate{
		"without root": {leaf, issuing.cert},
		"with root":    {leaf, issuing.cert, root.cert},
		"any order":    {leaf, root.cert, issuing.cert},
		"repeated":     {leaf, issuing.cert, issuing.cert},
	} {
		id, err := root.verify(chain...)
		if err != nil || id.String() != "spiffe://acme.example/a/b" {
			t.Errorf("%s: Verify = %s, %v", name, id, err)
		}
	}
	refused(t, root, "unknown authority", leaf)
}

func TestRule15IDIsSigned(t *testing.T) {
	root := newRoot(t, "acme.example")
	leaf := root.leaf("/web")
	forged := bytes.Replace(leaf.Raw, []byte("/web"), []byte("/dba"), 1)
	cert, err := x509.ParseCertificate(forged)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, root, "verify spiffe://acme.example/dba", cert)
}

func TestRule16OnlySVIDs(t *testing.T) {
	root := newRoot(t, "acme.example")
	refused(t, root, "does not begin with", root.leaf("/", rawURIs(true, "https://acme.example/web")))
	refused(t, root, "0 URI names", root.leaf("/", func(c *x509.Certificate) {
		c.URIs, c.DNSNames = nil, []string{"acme.example"}
	}))
	refused(t, root, "no URI name", root.leaf("/", func(c *x509.Certificate) { c.URIs = nil }))
	refused(t, root, "0 URI names", root.leaf("/", rawURIs(true)))
}

func TestRule17OneURINameOtherNamesAllowed(t *testing.T) {
	root := newRoot(t, "acme.example")
	leaf := root.leaf("/web", func(c *x509.Certificate) {
		c.DNSNames, c.EmailAddresses = []string{"web.acme.example"}, []string{"a@acme.example"}
	})
	if id, err := root.verify(leaf); err != nil || id.Path() != "/web" {
		t.Errorf("Verify = %s, %v", id, err)
	}
}

func TestRule18MoreThanOneURIName(t *testing.T) {
	root := newRoot(t, "acme.example")
	refused(t, root, "2 URI names", root.leaf("/", rawURIs(true, "spiffe://acme.example/a", "spiffe://acme.example/b")))
	refused(t, root, "2 URI names", root.leaf("/", rawURIs(true, "spiffe://acme.example/a", "https://acme.example/")))
	refused(t, root, "2 URI names", root.leaf("/", rawURIs(true, "https://acme.example/", "spiffe://acme.example/a")))
	refused(t, root, "2 URI names", root.leaf("/", rawURIs(true, "spiffe://acme.example/a", "spiffe://acme.example/a")))
}

// The URI is judged as it was signed: url.URL would drop the empty fragment.
func TestURINameIsReadRaw(t *testing.T) {
	root := newRoot(t, "acme.example")
	for _, uri := range []string{
		"spiffe://acme.example/a#", "spiffe://acme.example/a?", "spiffe://acme.example/%61", "SPIFFE://acme.example/a",
		"spiffe://ACME.example/a", "spiffe://acme.example:443/a", "spiffe://u@acme.example/a", "spiffe://acme.example//a",
		"spiffe://acme.example/a/", "spiffe://acme.example/a/../b", "spiffe:acme.example/a",
	} {
		refused(t, root, "SPIFFE ID", root.leaf("/", rawURIs(true, uri)))
	}
}

func TestRule19LeafHasAPath(t *testing.T) {
	root := newRoot(t, "acme.example")
	refused(t, root, "has no path", root.leaf(""))
	refused(t, root, "ends in a slash", root.leaf("/"))
}

func TestRule20NamesCriticalIfSubjectEmpty(t *testing.T) {
	root := newRoot(t, "acme.example")
	refused(t, root, "not critical", root.leaf("/", rawURIs(false, "spiffe://acme.example/a")))
	named := root.leaf("/", rawURIs(false, "spiffe://acme.example/a"), func(c *x509.Certificate) { c.Subject.CommonName = "a" })
	if _, err := root.verify(named); err != nil {
		t.Errorf("names that are not critical beside a subject: %v", err)
	}
}

func TestRule21SignerIDHasNoPath(t *testing.T) {
	root := newRoot(t, "acme.example")
	withID := func(uri string) change { return rawURIs(false, uri) }
	bad := root.child(withID("spiffe://acme.example/ca"))
	refused(t, root, "has a path", bad.leaf("/a"), bad.cert)
	none := root.child(func(c *x509.Certificate) { c.URIs = nil })
	if _, err := root.verify(none.leaf("/a"), none.cert); err != nil {
		t.Errorf("a signer without an ID: %v", err)
	}
	badRoot := newRoot(t, "acme.example", withID("spiffe://acme.example/root"))
	refused(t, badRoot, "has a path", badRoot.leaf("/a"))
}

func TestRule22SignerIsNobody(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child()
	refused(t, root, "has no path", issuing.cert)
	refused(t, root, "has no path", root.cert)
	withPath := root.child(rawURIs(false, "spiffe://acme.example/a"))
	refused(t, root, "is a certificate authority", withPath.cert)
}

func TestRule23AuthorityFlag(t *testing.T) {
	root := newRoot(t, "acme.example")
	refused(t, root, "is a certificate authority", root.leaf("/a", func(c *x509.Certificate) { c.IsCA = true }))
	// A leaf that signs: crypto/x509 refuses it, whatever its key usage says.
	leafKey := newKey(t)
	signer := &authority{t: t, td: root.td, key: leafKey, cert: root.leafFor(leafKey, "/a", func(c *x509.Certificate) { c.Subject.CommonName = "a" })}
	refused(t, root, "verify spiffe://acme.example/b", signer.leaf("/b"), signer.cert)
	// The path length of an issuer counts.
	short := root.child(func(c *x509.Certificate) { c.MaxPathLenZero = true })
	below := short.child()
	refused(t, root, "too many intermediates", below.leaf("/a"), below.cert, short.cert)
}

func TestRule24NameConstraintsAreProcessed(t *testing.T) {
	root := newRoot(t, "acme.example")
	other := root.child(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.example"}, true
	})
	refused(t, root, "not permitted", other.leaf("/a"), other.cert)
	own := root.child(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"acme.example"}, true
	})
	if _, err := root.verify(own.leaf("/a"), own.cert); err != nil {
		t.Errorf("within the name constraints: %v", err)
	}
}

func TestRule25KeyUsageCritical(t *testing.T) {
	root := newRoot(t, "acme.example")
	refused(t, root, "no key usage", root.leaf("/a", func(c *x509.Certificate) { c.KeyUsage = 0 }))
	refused(t, root, "not critical", root.leaf("/a", keyUsage(false, 0x80)))
	plain := root.child(keyUsage(false, 0x06))
	refused(t, root, "no critical key usage", plain.leaf("/a"), plain.cert)
}

func TestRule26SignerMaySign(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child(keyUsage(true, 0x02)) // cRLSign only
	refused(t, root, "verify spiffe://acme.example/a", issuing.leaf("/a"), issuing.cert)
	certOnly := root.child(keyUsage(true, 0x04))
	if _, err := root.verify(certOnly.leaf("/a"), certOnly.cert); err != nil {
		t.Errorf("keyCertSign without cRLSign: %v", err)
	}
}

func TestRule27LeafKeyUsage(t *testing.T) {
	root := newRoot(t, "acme.example")
	usage := func(u x509.KeyUsage) change { return func(c *x509.Certificate) { c.KeyUsage = u } }
	refused(t, root, "keyCertSign", root.leaf("/a", usage(x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign)))
	refused(t, root, "cRLSign", root.leaf("/a", usage(x509.KeyUsageDigitalSignature|x509.KeyUsageCRLSign)))
	refused(t, root, "digitalSignature", root.leaf("/a", usage(x509.KeyUsageKeyEncipherment)))
	all := root.leaf("/a", usage(x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement))
	if _, err := root.verify(all); err != nil {
		t.Errorf("the allowed usages: %v", err)
	}
}

func TestRule28ExtendedKeyUsage(t *testing.T) {
	root := newRoot(t, "acme.example")
	usage := func(u ...x509.ExtKeyUsage) change { return func(c *x509.Certificate) { c.ExtKeyUsage = u } }
	for _, u := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageAny, x509.ExtKeyUsageCodeSigning} {
		refused(t, root, "both serverAuth and clientAuth", root.leaf("/a", usage(u)))
	}
	if _, err := root.verify(root.leaf("/a", usage())); err != nil {
		t.Errorf("no extended key usage: %v", err)
	}
	codeOnly := root.child(usage(x509.ExtKeyUsageCodeSigning))
	refused(t, root, "incompatible key usage", codeOnly.leaf("/a"), codeOnly.cert)
}

func TestRule29PathValidation(t *testing.T) {
	root := newRoot(t, "acme.example")
	leaf := root.leaf("/a")
	for _, at := range []time.Time{leaf.NotBefore.Add(-time.Second), leaf.NotAfter.Add(time.Second)} {
		if _, err := spiffe.Verify([]*x509.Certificate{leaf}, root.bundles().Bundle, at); err == nil {
			t.Errorf("Verify at %s accepted a leaf valid from %s to %s", at, leaf.NotBefore, leaf.NotAfter)
		}
	}
	if _, err := spiffe.Verify([]*x509.Certificate{leaf}, root.bundles().Bundle, time.Time{}); err == nil {
		t.Error("Verify without a time took the wall clock")
	}
	// Same name, other key: names do not make an issuer.
	impostor := newRoot(t, "acme.example")
	refused(t, root, "verify spiffe://acme.example/a", impostor.leaf("/a"))
	refused(t, root, "verify spiffe://acme.example/a", impostor.leaf("/a"), impostor.cert)
	expired := root.child(func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) })
	refused(t, root, "expired", expired.leaf("/a"), expired.cert)
}

// Rule 30 gathers what a validator checks on a leaf.
func TestRule30LeafChecks(t *testing.T) {
	root := newRoot(t, "acme.example")
	for why, bad := range map[string]change{
		"is a certificate authority": func(c *x509.Certificate) { c.IsCA = true },
		"keyCertSign":                func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"cRLSign":                    func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign },
		"does not begin with":        rawURIs(true, "https://acme.example/a"),
		"has no path":                rawURIs(true, "spiffe://acme.example"),
		"2 URI names":                rawURIs(true, "spiffe://acme.example/a", "spiffe://acme.example/b"),
	} {
		leaf := root.leaf("/a", bad)
		refused(t, root, why, leaf)
		if _, err := spiffe.CertificateID(leaf); err == nil {
			t.Errorf("CertificateID accepted a leaf with %q", why)
		}
		key := newKey(t)
		if _, err := spiffe.ParseX509SVID(root.leafFor(key, "/a", bad).Raw, pkcs8(t, key)); err == nil {
			t.Errorf("ParseX509SVID accepted a leaf with %q", why)
		}
	}
}

// Rule 33 and 68: no root, no trust.
func TestRule33NoX509KeysMeansNoSVIDs(t *testing.T) {
	root := newRoot(t, "acme.example")
	only := `{"keys":[{"kty":"EC","use":"jwt-svid","kid":"a","crv":"P-256","x":"AA","y":"AA"}]}`
	bundle, err := spiffe.ParseBundle(root.td, []byte(only))
	if err != nil {
		t.Fatal(err)
	}
	_, err = spiffe.Verify([]*x509.Certificate{root.leaf("/a")}, spiffe.BundleMap{root.td: bundle}.Bundle, epoch)
	if err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("Verify with a bundle of JWT keys only: %v", err)
	}
}

// T25: an SVID of one trust domain never verifies with another's bundle.
func TestRule72BundleOfTheSVIDsTrustDomain(t *testing.T) {
	acme, evil := newRoot(t, "acme.example"), newRoot(t, "evil.example")
	both := spiffe.BundleMap{acme.td: acme.bundle(), evil.td: evil.bundle()}
	forged := evil.leaf("/", rawURIs(true, "spiffe://acme.example/a"))
	if id, err := spiffe.Verify([]*x509.Certificate{forged, evil.cert}, both.Bundle, epoch); err == nil {
		t.Fatalf("evil.example issued %s", id)
	}
	swapped := func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return evil.bundle(), true }
	if _, err := spiffe.Verify([]*x509.Certificate{forged}, swapped, epoch); err == nil || !strings.Contains(err.Error(), "bundle given is that of") {
		t.Errorf("Verify used the bundle of another trust domain: %v", err)
	}
	refused(t, acme, "no bundle for trust domain evil.example", evil.leaf("/a"))
}

func TestAttack62VerifyWithoutABundle(t *testing.T) {
	root := newRoot(t, "acme.example")
	chain := []*x509.Certificate{root.leaf("/a"), root.cert}
	for name, bundle := range map[string]func(spiffe.TrustDomain) (*spiffe.Bundle, bool){
		"none":  func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return root.bundle(), false },
		"nil":   func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return nil, true },
		"empty": func(td spiffe.TrustDomain) (*spiffe.Bundle, bool) { return spiffe.NewBundle(td, 1, 0), true },
		"nils":  func(td spiffe.TrustDomain) (*spiffe.Bundle, bool) { return spiffe.NewBundle(td, 1, 0, nil), true },
		"blank": func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return &spiffe.Bundle{}, true },
	} {
		if id, err := spiffe.Verify(chain, bundle, epoch); err == nil {
			t.Errorf("%s: Verify = %s", name, id)
		}
	}
}

// A leaf somebody put into a bundle proves nothing: no authority signed it.
func TestLeafAsRoot(t *testing.T) {
	root := newRoot(t, "acme.example")
	leaf := root.leaf("/a")
	bundle := spiffe.BundleMap{root.td: spiffe.NewBundle(root.td, 1, 0, leaf)}
	if id, err := spiffe.Verify([]*x509.Certificate{leaf}, bundle.Bundle, epoch); err == nil {
		t.Errorf("Verify = %s", id)
	}
}

func TestThreatT29ChainBounds(t *testing.T) {
	root := newRoot(t, "acme.example")
	leaf := root.leaf("/a")
	long := []*x509.Certificate{leaf}
	for len(long) < 11 {
		long = append(long, root.cert)
	}
	refused(t, root, "at most 10", long...)
	if _, err := root.verify(long[:10]...); err != nil {
		t.Errorf("10 certificates: %v", err)
	}
	refused(t, root, "empty")
	refused(t, root, "empty place", leaf, nil)
	fat := root.leaf("/a", func(c *x509.Certificate) {
		for range 70 {
			c.URIs = append(c.URIs, &url.URL{Scheme: "https", Host: "a", Path: "/" + strings.Repeat("a", 1000)})
		}
	})
	refused(t, root, "at most 65536", fat)
	key := newKey(t)
	if _, err := spiffe.ParseX509SVID(bytes.Repeat(root.leafFor(key, "/a").Raw, 11), pkcs8(t, key)); err == nil || !strings.Contains(err.Error(), "at most 10") {
		t.Errorf("ParseX509SVID of 11 certificates: %v", err)
	}
	if _, err := spiffe.ParseX509SVID(make([]byte, 64<<10+1), nil); err == nil || !strings.Contains(err.Error(), "at most 65536") {
		t.Errorf("ParseX509SVID of 64 KiB and a byte: %v", err)
	}
}
