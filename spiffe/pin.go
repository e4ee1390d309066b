package spiffe

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

const pinPrefix = "sha256-"

// Pin names a root by its key: the SHA-256 of its SubjectPublicKeyInfo. It is
// short enough to be typed and is what a node trusts before it has a bundle.
type Pin [sha256.Size]byte

// PinOf is the pin of a certificate.
func PinOf(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// ParsePin reads what String writes: "sha256-" and 64 lower-case hexadecimal
// digits.
func ParsePin(text string) (Pin, error) {
	digits, ok := strings.CutPrefix(text, pinPrefix)
	if !ok || len(digits) != 2*sha256.Size || digits != strings.ToLower(digits) {
		return Pin{}, fmt.Errorf("pin %q is not %s followed by 64 lower-case hexadecimal digits", clip(text), pinPrefix)
	}
	var pin Pin
	if _, err := hex.Decode(pin[:], []byte(digits)); err != nil {
		return Pin{}, fmt.Errorf("pin %q is not %s followed by 64 lower-case hexadecimal digits", clip(text), pinPrefix)
	}
	return pin, nil
}

// String is "sha256-" and 64 hexadecimal digits.
func (p Pin) String() string { return pinPrefix + hex.EncodeToString(p[:]) }

// PinnedClientTLS is TLS 1.3 for a client that has no identity and no bundle,
// only a pin. The server must send the pinned root in its chain, and its SVID
// must verify with that root alone; expect then decides as in [ClientTLS]. The
// client shows no certificate.
func PinnedClientTLS(pin Pin, now func() time.Time, expect func(ID) error) *tls.Config {
	config := base(now)
	skipHostNames(config)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := verifyPinned(state.PeerCertificates, pin, config.Time())
		if err != nil {
			return err
		}
		return expected(expect, id)
	}
	return config
}

func verifyPinned(chain []*x509.Certificate, pin Pin, now time.Time) (ID, error) {
	if err := checkSize(chain); err != nil {
		return ID{}, err
	}
	var roots []*x509.Certificate
	for _, cert := range chain[1:] {
		// Self-signed: the pin covers the key, so what else the certificate
		// says must be vouched for by that key.
		if PinOf(cert) == pin && cert.CheckSignatureFrom(cert) == nil {
			roots = append(roots, cert)
		}
	}
	if len(roots) == 0 {
		return ID{}, errors.New("server did not send the pinned root: it belongs to another trust domain, or the pin is old")
	}
	return Verify(chain, func(td TrustDomain) (*Bundle, bool) {
		return NewBundle(td, 0, 0, roots...), true
	}, now)
}
