package proxytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// CA is a root that signs leaves for tests.
type CA struct {
	t testing.TB

	mu     sync.Mutex
	key    *ecdsa.PrivateKey
	root   *x509.Certificate
	serial int64
	ttl    time.Duration
}

// NewCA makes a root.
func NewCA(t testing.TB) *CA {
	t.Helper()
	c := &CA{t: t, ttl: time.Hour}
	c.Renew()
	return c
}

// Renew replaces the root: what the old one signed is trusted no more.
func (c *CA) Renew() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{Organization: []string{"test"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: Domain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, c.key.Public(), c.key)
	if err != nil {
		c.t.Error(err)
		return
	}
	c.root, _ = x509.ParseCertificate(der)
}

// TTL sets the lifetime of what is issued from now on.
func (c *CA) TTL(ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ttl = ttl
}

// Roots is the bundle in DER.
func (c *CA) Roots() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.root.Raw
}

// Issue signs a leaf.
func (c *CA) Issue(id string) *spiffe.X509SVID {
	c.mu.Lock()
	defer c.mu.Unlock()
	uri, err := url.Parse(id)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(c.serial), Subject: pkix.Name{Organization: []string{"test"}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(c.ttl),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{uri}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.root, key.Public(), c.key)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	leaf, _ := x509.ParseCertificate(der)
	sid, err := spiffe.ParseID(id)
	if err != nil {
		c.t.Error(err)
		return nil
	}
	return &spiffe.X509SVID{ID: sid, Certificates: []*x509.Certificate{leaf}, PrivateKey: key}
}

// Source is an identity of this CA for a peer that is not the SDK.
func (c *CA) Source(path string) spiffe.Source {
	return source{c, c.Issue("spiffe://" + Domain + path)}
}

type source struct {
	ca   *CA
	svid *spiffe.X509SVID
}

// X509SVID is the identity.
func (s source) X509SVID() (*spiffe.X509SVID, error) { return s.svid, nil }

// Bundle is the CA's root for its own trust domain.
func (s source) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	root, err := x509.ParseCertificate(s.ca.Roots())
	if err != nil || td.String() != Domain {
		return nil, false
	}
	return spiffe.NewBundle(td, 1, time.Minute, root), true
}
