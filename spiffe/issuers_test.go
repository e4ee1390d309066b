package spiffe_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

func bundleOf(b *spiffe.Bundle) func(spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return spiffe.BundleMap{b.TrustDomain(): b}.Bundle
}

// warmed is a bundle that remembers the issuer.
func warmed(t *testing.T, root, issuing *authority) *spiffe.Bundle {
	t.Helper()
	b := root.bundle()
	if _, err := spiffe.Verify([]*x509.Certificate{issuing.leaf("/first"), issuing.cert}, bundleOf(b), epoch); err != nil || b.Remembered() != 1 {
		t.Fatalf("%d issuers remembered, %v", b.Remembered(), err)
	}
	return b
}

// A remembered issuer changes no verdict: on a leaf, at a time, or for another
// issuer that looks the same.
func TestRememberedIssuerChangesNoVerdict(t *testing.T) {
	root := newRoot(t, "acme.example", func(c *x509.Certificate) { c.NotAfter = epoch.Add(12 * time.Hour) })
	issuing := root.child()
	other, stranger := root.child(), newRoot(t, "acme.example")
	impostor := stranger.child()
	samePair := sign(t, caTemplate(root.td, "issuing"), stranger.cert, issuing.key.Public(), stranger.key, nil)
	narrow := root.child(func(c *x509.Certificate) {
		c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"other.example"}, true
	})
	forged := issuing.leaf("/web")
	forged.Signature = append([]byte(nil), forged.Signature...)
	forged.Signature[len(forged.Signature)-1] ^= 1
	long := func(c *x509.Certificate) { c.NotAfter = epoch.Add(48 * time.Hour) }
	for name, tc := range map[string]struct {
		chain []*x509.Certificate
		at    time.Time
		good  bool
	}{
		"lawful":                            {[]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, epoch, true},
		"another issuer":                    {[]*x509.Certificate{other.leaf("/web"), other.cert}, epoch, true},
		"leaf has ended":                    {[]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, epoch.Add(2 * time.Hour), false},
		"leaf has not begun":                {[]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, epoch.Add(-30 * time.Minute), false},
		"root has ended":                    {[]*x509.Certificate{issuing.leaf("/web", long), issuing.cert}, epoch.Add(13 * time.Hour), false},
		"issuer has ended":                  {[]*x509.Certificate{issuing.leaf("/web", long), issuing.cert}, epoch.Add(25 * time.Hour), false},
		"before the issuer":                 {[]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, epoch.Add(-2 * time.Hour), false},
		"forged signature":                  {[]*x509.Certificate{forged, issuing.cert}, epoch, false},
		"leaf of another issuer":            {[]*x509.Certificate{other.leaf("/web"), issuing.cert}, epoch, false},
		"leaf of an impostor":               {[]*x509.Certificate{impostor.leaf("/web"), issuing.cert}, epoch, false},
		"impostor as issuer":                {[]*x509.Certificate{impostor.leaf("/web"), impostor.cert}, epoch, false},
		"issuer's key under a strange root": {[]*x509.Certificate{issuing.leaf("/web"), samePair}, epoch, false},
		"issuer that may not":               {[]*x509.Certificate{narrow.leaf("/web"), narrow.cert}, epoch, false},
		"authority as leaf":                 {[]*x509.Certificate{issuing.leaf("/web", func(c *x509.Certificate) { c.IsCA = true }), issuing.cert}, epoch, false},
		"one extended key usage":            {[]*x509.Certificate{issuing.leaf("/web", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), issuing.cert}, epoch, false},
		"unknown critical extension":        {[]*x509.Certificate{issuing.leaf("/web", unknown(true)), issuing.cert}, epoch, false},
		"below the issuer":                  {[]*x509.Certificate{issuing.child().leaf("/web"), issuing.cert}, epoch, false},
		"without the issuer":                {[]*x509.Certificate{issuing.leaf("/web")}, epoch, false},
		"more than the issuer":              {[]*x509.Certificate{issuing.leaf("/web"), issuing.cert, root.cert}, epoch, true},
	} {
		warm, cold := warmed(t, root, issuing), root.bundle()
		gotID, got := spiffe.Verify(tc.chain, bundleOf(warm), tc.at)
		wantID, want := spiffe.Verify(tc.chain, bundleOf(cold), tc.at)
		if (got == nil) != tc.good || (want == nil) != tc.good || gotID != wantID {
			t.Errorf("%s: with memory %v, without %v, want good %v", name, got, want, tc.good)
		}
		if got != nil && want != nil && got.Error() != want.Error() {
			t.Errorf("%s: with memory %q, without %q", name, got, want)
		}
	}
	// What another bundle remembers is nothing to a bundle without the root.
	if _, err := spiffe.Verify([]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, bundleOf(stranger.bundle()), epoch); err == nil {
		t.Error("a bundle without the root vouches for the issuer")
	}
}

// unknown adds an extension that nobody knows.
func unknown(critical bool) change {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: critical, Value: []byte{5, 0}})
	}
}

// A root that could forbid one leaf and allow another is asked each time.
func TestRootsWithConstraintsAreAskedEachTime(t *testing.T) {
	for name, change := range map[string]change{
		"name constraints":    func(c *x509.Certificate) { c.PermittedURIDomains = []string{"acme.example"} },
		"extended key usages": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
		"a policy":            unknown(false),
	} {
		root := newRoot(t, "acme.example", change)
		issuing, b := root.child(), root.bundle()
		if _, err := spiffe.Verify([]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, bundleOf(b), epoch); err != nil || b.Remembered() != 0 {
			t.Errorf("%s: %d issuers remembered, %v", name, b.Remembered(), err)
		}
	}
}

// A crowd of issuers does not fill the memory, and is verified all the same.
func TestRememberedIssuersAreBounded(t *testing.T) {
	root := newRoot(t, "acme.example")
	b := root.bundle()
	var verifying sync.WaitGroup
	for range 4 {
		verifying.Go(func() {
			for range 20 {
				issuing := root.child()
				for range 2 {
					if _, err := spiffe.Verify([]*x509.Certificate{issuing.leaf("/web"), issuing.cert}, bundleOf(b), epoch); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	verifying.Wait()
	if n := b.Remembered(); n > 64 {
		t.Errorf("%d issuers remembered", n)
	}
}

// BenchmarkVerify is one peer's chain: leaf, issuing CA, root.
func BenchmarkVerify(b *testing.B) {
	root := newRoot(b, "acme.example")
	issuing := root.child()
	chain := []*x509.Certificate{issuing.leaf("/web"), issuing.cert}
	b.Run("issuer remembered", func(b *testing.B) {
		bundles := root.bundles()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := spiffe.Verify(chain, bundles.Bundle, epoch); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("issuer new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := spiffe.Verify(chain, root.bundles().Bundle, epoch); err != nil {
				b.Fatal(err)
			}
		}
	})
}
