package ca

import (
	"crypto"
	"crypto/x509"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const maxCSR = 8 << 10

// ParseCSR reads a PKCS#10 request in DER, of at most 8 KiB, checks that
// whoever made it holds the private key, and returns the public key. It takes
// nothing else: names, extensions and attributes of a request do not count.
func ParseCSR(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxCSR {
		return nil, fault.Invalidf("certificate request has %d bytes, at most %d are allowed", len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fault.Invalidf("certificate request: %w", err)
	}
	// Before the signature: checking one by an outsize key is an attack.
	if err := spiffe.CheckKey(csr.PublicKey); err != nil {
		return nil, fault.Invalidf("certificate request: %w", err)
	}
	switch csr.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519,
		x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS:
	default:
		return nil, fault.Invalidf("certificate request is signed with %s", csr.SignatureAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.Invalidf("certificate request does not prove its key: %w", err)
	}
	return csr.PublicKey, nil
}
