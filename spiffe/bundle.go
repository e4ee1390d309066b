package spiffe

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"
)

// DefaultRefreshHint is how often to fetch a bundle that gives no hint.
const DefaultRefreshHint = 5 * time.Minute // Trust Domain and Bundle 6.1

// Bundle is what is needed to verify the SVIDs of one trust domain: its X.509
// roots, and its keys for JWT-SVIDs and for WIT-SVIDs. It is immutable. A bundle
// without roots trusts no X.509-SVID, and one without keys of a kind no token of
// that kind.
type Bundle struct {
	td       TrustDomain
	sequence uint64
	hint     time.Duration // 0: none was given
	roots    []*x509.Certificate
	pool     *x509.CertPool
	issuers  *issuers
	jwtKeys  []JWTKey
	witKeys  []JWTKey
}

// NewBundle makes a bundle. The sequence number must grow whenever the content
// changes; 0 means unknown. A refreshHint below one second means none. Roots
// given twice are kept once.
func NewBundle(td TrustDomain, sequence uint64, refreshHint time.Duration, roots ...*x509.Certificate) *Bundle {
	b := &Bundle{td: td, sequence: sequence, hint: max(0, refreshHint.Truncate(time.Second)), pool: x509.NewCertPool(), issuers: &issuers{}}
	for _, root := range roots {
		if root == nil || contains(b.roots, root) {
			continue
		}
		b.roots = append(b.roots, root)
		b.pool.AddCert(root)
	}
	return b
}

// ParseRoots makes a bundle from concatenated DER certificates, the form in
// which the SPIFFE Workload API gives one. At most 1 MiB and 512 roots are
// read.
func ParseRoots(td TrustDomain, der []byte) (*Bundle, error) {
	if err := checkBundleSize(len(der)); err != nil {
		return nil, err
	}
	roots, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, bundleErrorf(td, "parse roots: %w", err)
	}
	if len(roots) > maxBundleKeys {
		return nil, bundleErrorf(td, "has %d roots, at most %d are allowed", len(roots), maxBundleKeys)
	}
	return NewBundle(td, 0, 0, roots...), nil
}

// TrustDomain is the trust domain the bundle is for, by the word of whoever
// made it; a bundle document does not say.
func (b *Bundle) TrustDomain() TrustDomain { return b.td }

// Roots are the certificates that are trusted. The slice is the caller's.
func (b *Bundle) Roots() []*x509.Certificate { return slices.Clone(b.roots) }

// Sequence is the bundle's sequence number, 0 if it has none.
func (b *Bundle) Sequence() uint64 { return b.sequence }

// RefreshHint is how often to look for a newer one, [DefaultRefreshHint] if
// the bundle does not say.
func (b *Bundle) RefreshHint() time.Duration {
	if b.hint == 0 {
		return DefaultRefreshHint
	}
	return b.hint
}

// MarshalRoots is the roots as concatenated DER.
func (b *Bundle) MarshalRoots() []byte { return concatDER(b.roots) }

// Equal reports whether both bundles are for the same trust domain and have
// the same sequence number, hint and sets of roots and keys. Two nil bundles are
// equal.
func (b *Bundle) Equal(other *Bundle) bool {
	if b == nil || other == nil {
		return b == other
	}
	if b.td != other.td || b.sequence != other.sequence || b.hint != other.hint || len(b.roots) != len(other.roots) {
		return false
	}
	for _, root := range b.roots {
		if !contains(other.roots, root) {
			return false
		}
	}
	return sameKeys(b.jwtKeys, other.jwtKeys) && sameKeys(b.witKeys, other.witKeys)
}

// BundleMap holds bundles by trust domain; its Bundle method is what [Verify]
// asks.
type BundleMap map[TrustDomain]*Bundle

// Bundle is the bundle of a trust domain, if there is one.
func (m BundleMap) Bundle(td TrustDomain) (*Bundle, bool) {
	b, ok := m[td]
	return b, ok
}

func contains(certs []*x509.Certificate, cert *x509.Certificate) bool {
	return slices.ContainsFunc(certs, func(c *x509.Certificate) bool { return bytes.Equal(c.Raw, cert.Raw) })
}
