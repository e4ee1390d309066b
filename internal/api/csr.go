package api

import (
	"crypto"
	"crypto/x509"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// maxCSR bounds a PKCS#10 request; an RSA-4096 one is about 1.1 KiB.
const maxCSR = 8 << 10

// keyOf reads the public key of a PKCS#10 request and checks the proof that
// its sender holds the private half. Names, extensions and attributes in it
// are never looked at. The key's type and size come before the signature check,
// so that a monstrous RSA key costs nothing.
func keyOf(der []byte) (crypto.PublicKey, error) {
	if len(der) == 0 {
		return nil, fault.Invalidf("certificate request: empty")
	}
	if len(der) > maxCSR {
		return nil, fault.Invalidf("certificate request: %d bytes, at most %d are read", len(der), maxCSR)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fault.Invalidf("certificate request: %w", err)
	}
	if err := spiffe.CheckKey(csr.PublicKey); err != nil {
		return nil, fault.Invalidf("certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fault.Invalidf("certificate request: proof of possession: %w", err)
	}
	return csr.PublicKey, nil
}
