package spiffe_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// epoch is the now of all tests.
var epoch = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func now() time.Time { return epoch }

// authority signs whatever a test asks for, lawful or not.
type authority struct {
	t    testing.TB
	td   spiffe.TrustDomain
	cert *x509.Certificate
	key  crypto.Signer
}

type change func(*x509.Certificate)

func newRoot(t testing.TB, name string, changes ...change) *authority {
	t.Helper()
	td := mustTD(t, name)
	a := &authority{t: t, td: td, key: newKey(t)}
	a.cert = sign(t, caTemplate(td, "root"), nil, a.key.Public(), a.key, changes)
	return a
}

// child is an intermediate below a.
func (a *authority) child(changes ...change) *authority {
	a.t.Helper()
	c := &authority{t: a.t, td: a.td, key: newKey(a.t)}
	c.cert = sign(a.t, caTemplate(a.td, "issuing"), a.cert, c.key.Public(), a.key, changes)
	return c
}

// leaf signs a lawful leaf, but for the changes.
func (a *authority) leaf(path string, changes ...change) *x509.Certificate {
	a.t.Helper()
	return a.leafFor(newKey(a.t), path, changes...)
}

func (a *authority) leafFor(key crypto.Signer, path string, changes ...change) *x509.Certificate {
	a.t.Helper()
	return sign(a.t, &x509.Certificate{
		NotBefore: epoch.Add(-time.Minute), NotAfter: epoch.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: a.td.String(), Path: path}},
	}, a.cert, key.Public(), a.key, changes)
}

// svid is a lawful SVID with the chain up to, but without, the root.
func (a *authority) svid(path string, above ...*x509.Certificate) *spiffe.X509SVID {
	a.t.Helper()
	key := newKey(a.t)
	leaf := a.leafFor(key, path)
	id, err := spiffe.CertificateID(leaf)
	if err != nil {
		a.t.Fatal(err)
	}
	return &spiffe.X509SVID{ID: id, Certificates: append([]*x509.Certificate{leaf}, above...), PrivateKey: key}
}

func (a *authority) bundle() *spiffe.Bundle { return spiffe.NewBundle(a.td, 1, 0, a.cert) }

func (a *authority) bundles() spiffe.BundleMap { return spiffe.BundleMap{a.td: a.bundle()} }

func (a *authority) verify(chain ...*x509.Certificate) (spiffe.ID, error) {
	return spiffe.Verify(chain, a.bundles().Bundle, epoch)
}

func caTemplate(td spiffe.TrustDomain, name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: td.String() + " " + name},
		NotBefore: epoch.Add(-time.Hour), NotAfter: epoch.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: td.String()}},
	}
}

func sign(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer, changes []change) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	for _, apply := range changes {
		apply(template)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// rawURIs puts URI names into a certificate byte for byte.
func rawURIs(critical bool, uris ...string) change {
	return func(template *x509.Certificate) {
		var names []asn1.RawValue
		for _, uri := range uris {
			names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)})
		}
		der, err := asn1.Marshal(names)
		if err != nil {
			panic(err)
		}
		template.URIs = nil
		template.ExtraExtensions = append(template.ExtraExtensions,
			pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: critical, Value: der})
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustTD(t testing.TB, name string) spiffe.TrustDomain {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(name)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

func mustID(t testing.TB, uri string) spiffe.ID {
	t.Helper()
	id, err := spiffe.ParseID(uri)
	if err != nil {
		t.Fatal(err)
	}
	return id
}
