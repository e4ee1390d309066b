package spiffe

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

const (
	maxChainCerts = 10
	maxChainBytes = 64 << 10
	maxKeyBytes   = 16 << 10
)

// X509SVID is an identity document with its private key: what a workload
// proves its identity with. Treat one as immutable; rotation replaces it.
type X509SVID struct {
	// ID is the identity the leaf certificate carries.
	ID ID
	// Certificates is the chain, leaf first, the root usually not included.
	Certificates []*x509.Certificate
	// PrivateKey is the key of the leaf.
	PrivateKey crypto.Signer
	// Hint is the operator's word for what this SVID is for, often empty.
	Hint string
}

// ParseX509SVID reads a chain of concatenated DER certificates, leaf first,
// and its unencrypted PKCS#8 key: the form of the SPIFFE Workload API. The
// chain has at most 10 certificates and 64 KiB. It checks the leaf's form and
// that the key is the leaf's; it verifies no signature and looks at no clock,
// which is [Verify]'s work.
func ParseX509SVID(chainDER, keyPKCS8 []byte) (*X509SVID, error) {
	chain, err := parseChain(chainDER)
	if err != nil {
		return nil, err
	}
	id, err := checkLeaf(chain[0])
	if err != nil {
		return nil, fmt.Errorf("leaf certificate: %w", err)
	}
	for i, cert := range chain[1:] {
		if err := checkIntermediate(cert); err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w", i+1, err)
		}
	}
	key, err := parseKey(keyPKCS8)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(chain[0].PublicKey) {
		return nil, errors.New("private key is not the leaf's")
	}
	return &X509SVID{ID: id, Certificates: chain, PrivateKey: key}, nil
}

// TLSCertificate is the SVID as crypto/tls wants it.
func (s *X509SVID) TLSCertificate() *tls.Certificate {
	raw := make([][]byte, len(s.Certificates))
	for i, cert := range s.Certificates {
		raw[i] = cert.Raw
	}
	cert := &tls.Certificate{Certificate: raw, PrivateKey: s.PrivateKey}
	if len(s.Certificates) > 0 {
		cert.Leaf = s.Certificates[0]
	}
	return cert
}

// Expiry is when the leaf ends to be valid. An SVID without a certificate has
// expired long ago.
func (s *X509SVID) Expiry() time.Time {
	if len(s.Certificates) == 0 {
		return time.Time{}
	}
	return s.Certificates[0].NotAfter
}

// MarshalChain is the chain as concatenated DER, leaf first.
func (s *X509SVID) MarshalChain() []byte { return concatDER(s.Certificates) }

// MarshalKey is the private key as unencrypted PKCS#8. The caller owns the
// bytes and should clear them after use.
func (s *X509SVID) MarshalKey() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("marshal private key: %w", err)
	}
	return der, nil
}

func concatDER(certs []*x509.Certificate) []byte {
	size := 0
	for _, cert := range certs {
		size += len(cert.Raw)
	}
	der := make([]byte, 0, size)
	for _, cert := range certs {
		der = append(der, cert.Raw...)
	}
	return der
}

func parseChain(der []byte) ([]*x509.Certificate, error) {
	if len(der) > maxChainBytes {
		return nil, fmt.Errorf("chain has %d bytes, at most %d are allowed", len(der), maxChainBytes)
	}
	chain, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, fmt.Errorf("parse chain: %w", err)
	}
	switch {
	case len(chain) == 0:
		return nil, errors.New("chain is empty")
	case len(chain) > maxChainCerts:
		return nil, fmt.Errorf("chain has %d certificates, at most %d are allowed", len(chain), maxChainCerts)
	}
	return chain, nil
}

func parseKey(pkcs8 []byte) (crypto.Signer, error) {
	if len(pkcs8) > maxKeyBytes {
		return nil, fmt.Errorf("private key has %d bytes, at most %d are allowed", len(pkcs8), maxKeyBytes)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("parse private key: %w", err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("private key of type %T cannot sign", parsed)
	}
	if err := CheckKey(key.Public()); err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return key, nil
}
