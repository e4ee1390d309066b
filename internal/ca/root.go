package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

const (
	rootVersion  = 1
	maxRootBytes = 64 << 10
	// maxOrganization is ub-organization-name of RFC 5280 A.1.
	maxOrganization = 64
)

// RootConfig is what a new root is made of.
type RootConfig struct {
	TrustDomain spiffe.TrustDomain
	KEK         *keys.KEK // seals the root's key
	Now         time.Time
	TTL         time.Duration // default 10 years, at most 30
}

// root is a root certificate and its sealed key.
type root struct {
	cert   *x509.Certificate
	sealed []byte
}

// storedRoot is the form in which the caller keeps a root.
type storedRoot struct {
	Version     int    `json:"version"`
	TrustDomain string `json:"trust_domain"`
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"` // sealed
}

// NewRoot makes a self-signed root and returns it as the bytes to store: the
// certificate, and the key sealed under the key encryption key. The key is
// wiped before NewRoot returns.
func NewRoot(config RootConfig) ([]byte, error) {
	ttl := config.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	switch {
	case config.TrustDomain.IsZero():
		return nil, fault.Invalidf("new root: no trust domain")
	case ttl < 4*minOutage || ttl > maxRoot:
		return nil, fault.Invalidf("new root: lifetime %s is not between %s and %s", ttl, 4*minOutage, maxRoot)
	}
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	template, want, err := authorityTemplate(config.TrustDomain, "root", key, config.Now, ttl)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign root: %w", err)
	}
	cert, err := lintAuthority(der, want)
	if err != nil {
		return nil, fault.Hint(fmt.Errorf("root: %w", err), "trust domain %s cannot be written into a certificate; choose one that looks like a DNS name", config.TrustDomain)
	}
	sealed, err := key.Seal(config.KEK, rootPurpose(config.TrustDomain))
	if err != nil {
		return nil, err
	}
	return json.Marshal(storedRoot{rootVersion, config.TrustDomain.String(), cert.svid.Raw, sealed})
}

// RootCertificate reads the certificate of a stored root; that needs no key
// encryption key.
func RootCertificate(stored []byte) (*x509.Certificate, error) {
	_, r, err := parseRoot(stored)
	if err != nil {
		return nil, err
	}
	return r.cert, nil
}

func parseRoot(stored []byte) (spiffe.TrustDomain, *root, error) {
	var s storedRoot
	if len(stored) > maxRootBytes || json.Unmarshal(stored, &s) != nil {
		return spiffe.TrustDomain{}, nil, fault.Invalidf("stored root: cannot be read")
	}
	if s.Version != rootVersion {
		return spiffe.TrustDomain{}, nil, fault.Invalidf("stored root: has version %d, this program knows version %d", s.Version, rootVersion)
	}
	td, err := spiffe.ParseTrustDomain(s.TrustDomain)
	if err != nil {
		return spiffe.TrustDomain{}, nil, fault.Invalidf("stored root: %w", err)
	}
	cert, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		return spiffe.TrustDomain{}, nil, fault.Invalidf("stored root: %w", err)
	}
	if err := checkStoredRoot(cert, td); err != nil {
		return spiffe.TrustDomain{}, nil, fault.Invalidf("stored root: %w", err)
	}
	return td, &root{cert: cert, sealed: s.Key}, nil
}

// open unseals the key and checks that it is the certificate's. The caller
// wipes it once it has signed.
func (r *root) open(kek *keys.KEK, td spiffe.TrustDomain) (*keys.Authority, error) {
	key, err := keys.OpenAuthority(kek, rootPurpose(td), r.sealed)
	if err != nil {
		return nil, err
	}
	if public, ok := r.cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		key.Wipe()
		return nil, fault.Invalidf("stored root: the sealed key is not the certificate's")
	}
	return key, nil
}

func rootPurpose(td spiffe.TrustDomain) string { return "root key of " + td.String() }

// authorityTemplate is what root and issuing CA have in common. Both carry the
// trust domain's ID and no other name; neither carries name constraints, see
// DESIGN.md.
func authorityTemplate(td spiffe.TrustDomain, role string, key *keys.Authority, now time.Time, ttl time.Duration) (*x509.Certificate, expectation, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, expectation{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, expectation{}, fmt.Errorf("encode authority key: %w", err)
	}
	now = now.UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               authorityName(td, role),
		NotBefore:             now.Add(-backdate(ttl)),
		NotAfter:              now.Add(ttl.Truncate(time.Second)),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SubjectKeyId:          keyID(spki),
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: td.String()}},
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	return template, expectation{
		id: td.ID(), serial: serial, spki: spki,
		notBefore: template.NotBefore, notAfter: template.NotAfter, pathLen: -1,
	}, nil
}

// authorityName is for people who read certificates. A trust domain that is too
// long for it is named by the URI alone.
func authorityName(td spiffe.TrustDomain, role string) pkix.Name {
	name := pkix.Name{CommonName: "Kith " + role}
	if len(td.String()) <= maxOrganization {
		name.Organization = []string{td.String()}
	}
	return name
}

// newSerial is 127 random bits, of which the highest is set, so that each
// serial has 16 octets: over the 64 bits that are asked for, under the 20
// octets that are allowed.
func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("make serial: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:]), nil
}

// keyID is RFC 7093 method 4: the leftmost 160 bits of the SHA-256 of the key.
func keyID(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:20]
}

// signIssuing makes this server's issuing CA: journalled, signed by the root
// and linted like all else. The root's key is in the clear only in here.
func (c *CA) signIssuing(ctx context.Context, now time.Time) (*issuer, error) {
	key, err := keys.Generate()
	if err != nil {
		return nil, err
	}
	template, want, err := authorityTemplate(c.td, "issuing "+c.config.Server, key, now, c.config.Lifetimes.Issuing)
	if err != nil {
		return nil, err
	}
	template.MaxPathLenZero = true
	template.NotBefore = later(template.NotBefore, c.root.cert.NotBefore)
	template.NotAfter = earlier(template.NotAfter, c.root.cert.NotAfter)
	want.issuer, want.pathLen = c.root.cert, 0
	want.notBefore, want.notAfter = template.NotBefore, template.NotAfter
	if template.NotAfter.Sub(now) < 2*minLeaf {
		err := fmt.Errorf("root expires at %s", c.root.cert.NotAfter.Format(time.RFC3339))
		return nil, fault.Hint(err, "check the clock; an expired root must be replaced")
	}
	entry := want.entry(IssuingEntry, now)
	entry.Requester = c.config.Server
	if err := c.journal.add(ctx, now, entry); err != nil {
		return nil, err
	}
	rootKey, err := c.root.open(c.config.KEK, c.td)
	if err != nil {
		return nil, err
	}
	defer rootKey.Wipe()
	der, err := c.create(template, c.root.cert, key.Public(), rootKey)
	if err != nil {
		return nil, fmt.Errorf("sign issuing CA: %w", err)
	}
	cert, err := lintAuthority(der, want)
	if err != nil {
		return nil, err
	}
	return &issuer{cert: cert.svid, key: key, renewAt: now.Add(template.NotAfter.Sub(now) / 2)}, nil
}
