package spiffe

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// Verify checks a peer's chain, leaf first, and returns whose it is. The
// bundle function is asked for the bundle of the leaf's trust domain, and only
// that bundle's roots count. The chain has at most 10 certificates and 64 KiB.
//
// These checks come before and after the path validation of crypto/x509,
// which makes none of them:
//   - the leaf has exactly one URI name, a SPIFFE ID with a path;
//   - the leaf is no certificate authority and may sign neither certificates
//     nor revocation lists, but may sign handshakes;
//   - an extended key usage, if there is one, holds both server and client;
//   - all keys are of a kind and size [CheckKey] allows;
//   - issuers are marked as such, and their ID, if any, has no path;
//   - the bundle is the trust domain's own and not empty, and the leaf is not
//     itself one of its roots.
func Verify(chain []*x509.Certificate, bundle func(TrustDomain) (*Bundle, bool), now time.Time) (ID, error) {
	if err := checkSize(chain); err != nil {
		return ID{}, err
	}
	if now.IsZero() {
		return ID{}, errors.New("no time to verify at") // crypto/x509 would take the wall clock
	}
	leaf := chain[0]
	id, err := checkLeaf(leaf)
	if err != nil {
		return ID{}, fmt.Errorf("leaf certificate: %w", err)
	}
	td := id.TrustDomain()
	b, ok := bundle(td)
	switch {
	case !ok || b == nil:
		return ID{}, fmt.Errorf("verify %s: no bundle for trust domain %s", id, td)
	case b.td != td:
		return ID{}, fmt.Errorf("verify %s: the bundle given is that of trust domain %s", id, b.td)
	case len(b.roots) == 0:
		return ID{}, fmt.Errorf("verify %s: the bundle of %s is empty, nothing in it is trusted", id, td)
	}
	paths, err := b.paths(leaf, chain[1:], now)
	if err != nil {
		return ID{}, fmt.Errorf("verify %s: %w", id, offTime(now, err))
	}
	for _, path := range paths {
		if err = checkPath(path); err == nil {
			return id, nil
		}
	}
	return ID{}, fmt.Errorf("verify %s: %w", id, err)
}

// CertificateID is the SPIFFE ID of a certificate that has the form of a leaf.
// It verifies no signature: only a certificate that has passed [Verify] proves
// an identity.
func CertificateID(cert *x509.Certificate) (ID, error) { return checkLeaf(cert) }

func checkSize(chain []*x509.Certificate) error {
	switch {
	case len(chain) == 0:
		return errors.New("chain is empty")
	case len(chain) > maxChainCerts:
		return fmt.Errorf("chain has %d certificates, at most %d are allowed", len(chain), maxChainCerts)
	}
	size := 0
	for _, cert := range chain {
		if cert == nil {
			return errors.New("chain has an empty place")
		}
		size += len(cert.Raw)
	}
	if size > maxChainBytes {
		return fmt.Errorf("chain has %d bytes, at most %d are allowed", size, maxChainBytes)
	}
	return nil
}

// offTime says by how much a certificate is not valid now, if that is what is
// wrong with it: mostly it is somebody's clock.
func offTime(now time.Time, err error) error {
	var invalid x509.CertificateInvalidError
	if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || invalid.Cert == nil {
		return err
	}
	if early := invalid.Cert.NotBefore.Sub(now); early > 0 {
		return fmt.Errorf("not valid for another %s, so the clock of this host is behind, or that of the issuer ahead: %w", early.Round(time.Second), err)
	}
	late := now.Sub(invalid.Cert.NotAfter)
	return fmt.Errorf("ended %s ago, so it was not renewed, or the clock of this host is ahead: %w", late.Round(time.Second), err)
}

// checkPath looks at a path crypto/x509 has found good: leaf, issuers, root.
func checkPath(path []*x509.Certificate) error {
	if len(path) < 2 {
		return errors.New("leaf is itself a root of the bundle")
	}
	issuers, root := path[1:len(path)-1], path[len(path)-1]
	for i, cert := range issuers {
		if err := checkIntermediate(cert); err != nil {
			return fmt.Errorf("issuer %d of the chain: %w", i+1, err)
		}
	}
	if err := checkRoot(root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}
