package spiffe

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"sync"
	"time"
)

// maxIssuers bounds what is remembered. There is one issuing CA per server; more
// are not remembered and verified each time.
const maxIssuers = 64

// issuers remembers which issuing certificates the roots of one bundle have been
// found to vouch for: the signature above a leaf's issuer is the same in each
// handshake. It is part of a bundle, so nothing outlives a change of roots, and
// what is remembered is no verdict on a leaf, nor on a time.
type issuers struct {
	mu    sync.RWMutex
	known map[string]*issuer // by the certificate; guarded by mu
}

type issuer struct {
	cert, root *x509.Certificate
	pool       *x509.CertPool // of cert
}

// paths are the ways from a leaf to a root of the bundle at that time.
func (b *Bundle) paths(leaf *x509.Certificate, above []*x509.Certificate, now time.Time) ([][]*x509.Certificate, error) {
	if path := b.issuers.path(leaf, above, now); path != nil {
		return [][]*x509.Certificate{path}, nil
	}
	intermediates := x509.NewCertPool()
	for _, cert := range above {
		intermediates.AddCert(cert)
	}
	paths, err := leaf.Verify(verifyOptions(b.pool, intermediates, now))
	if err == nil {
		b.issuers.remember(paths, above)
	}
	return paths, err
}

func verifyOptions(roots, intermediates *x509.CertPool, now time.Time) x509.VerifyOptions {
	return x509.VerifyOptions{
		Roots:         roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		// One of the two must be allowed all the way up; that the leaf has
		// both is checked by checkLeaf.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

// path is the way by a remembered issuer, nil if there is none. crypto/x509
// verifies leaf and issuer as ever, with the issuer in the root's place; of the
// root, which remember wants to be plain, only the time is left to check.
func (i *issuers) path(leaf *x509.Certificate, above []*x509.Certificate, now time.Time) []*x509.Certificate {
	if len(above) != 1 {
		return nil
	}
	i.mu.RLock()
	known := i.known[string(above[0].Raw)]
	i.mu.RUnlock()
	if known == nil || now.Before(known.root.NotBefore) || now.After(known.root.NotAfter) {
		return nil
	}
	if _, err := leaf.Verify(verifyOptions(known.pool, nil, now)); err != nil {
		return nil // verified in full, the reason will be the right one
	}
	return []*x509.Certificate{leaf, known.cert, known.root}
}

// remember takes the issuer of a chain of the usual shape: leaf, issuer, and a
// root that constrains nothing.
func (i *issuers) remember(paths [][]*x509.Certificate, above []*x509.Certificate) {
	if len(above) != 1 || len(paths) != 1 || len(paths[0]) != 3 {
		return
	}
	cert, root := paths[0][1], paths[0][2]
	if !cert.Equal(above[0]) || !plainRoot(root) {
		return
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil {
		i.known = make(map[string]*issuer)
	}
	if len(i.known) < maxIssuers {
		i.known[string(cert.Raw)] = &issuer{cert: cert, root: root, pool: pool}
	}
}

// plainRoot says that a root has no extension that could forbid one leaf and
// allow another: no name constraints, key usages or policies.
func plainRoot(cert *x509.Certificate) bool {
	// RFC 5280 4.2.1: key identifiers, key usage, names, basic constraints.
	harmless := []int{14, 15, 17, 19, 35}
	for _, e := range cert.Extensions {
		if len(e.Id) != 4 || !e.Id[:3].Equal(asn1.ObjectIdentifier{2, 5, 29}) || !slices.Contains(harmless, e.Id[3]) {
			return false
		}
	}
	return true
}
