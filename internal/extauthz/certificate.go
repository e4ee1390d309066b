package extauthz

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/url"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// maxCertificate bounds a certificate as proxies write it.
const maxCertificate = 32 << 10

// parseLeaf reads the certificate of a peer that the proxy has authenticated,
// and says whose it is and its hash. The chain is not there to be verified again,
// which is the proxy's to do; what proxies do not look at is checked here: that it
// is the leaf of a workload, with one SPIFFE ID, and valid now.
func parseLeaf(text string, now time.Time) (spiffe.ID, *[sha256.Size]byte, error) {
	der, err := decodeCertificate(text)
	if err != nil {
		return spiffe.ID{}, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return spiffe.ID{}, nil, fault.Invalidf("the peer's certificate: %w", err)
	}
	id, err := spiffe.CertificateID(cert)
	switch {
	case err != nil:
		return spiffe.ID{}, nil, fault.Invalidf("the peer's certificate: %w", err)
	case now.Before(cert.NotBefore), !now.Before(cert.NotAfter):
		return spiffe.ID{}, nil, fault.Invalidf("the certificate of %s is not valid now", id)
	}
	hash := sha256.Sum256(cert.Raw)
	return id, &hash, nil
}

// decodeCertificate reads the two ways in which proxies put a certificate into
// one line: PEM, URL-encoded (Envoy, nginx), and DER in base64 (Caddy, HAProxy).
func decodeCertificate(text string) ([]byte, error) {
	if len(text) > maxCertificate {
		return nil, fault.Invalidf("the peer's certificate has %d bytes, at most %d are read", len(text), maxCertificate)
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return nil, fault.Invalidf("the peer's certificate is not URL-encoded")
	}
	if !strings.HasPrefix(plain, "-----BEGIN") {
		der, err := base64.StdEncoding.DecodeString(plain)
		if err != nil {
			return nil, fault.Invalidf("the peer's certificate is neither PEM nor base64")
		}
		return der, nil
	}
	block, rest := pem.Decode([]byte(plain))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, fault.Invalidf("the peer's certificate is not one certificate in PEM")
	}
	return block.Bytes, nil
}
