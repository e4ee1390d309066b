package spiffe

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The extensions this file reads itself, below 2.5.29 (RFC 5280 4.2.1).
const (
	extKeyUsage         = 15
	extSubjectAltName   = 17
	extExtendedKeyUsage = 37
)

// checkLeaf checks the form of an SVID's leaf and returns its ID.
func checkLeaf(cert *x509.Certificate) (ID, error) {
	id, err := leafID(cert)
	if err != nil {
		return ID{}, err
	}
	if cert.IsCA {
		return ID{}, fmt.Errorf("%s: is a certificate authority", id) // X509-SVID 5.2
	}
	if err := checkLeafUsage(cert); err != nil {
		return ID{}, fmt.Errorf("%s: %w", id, err)
	}
	if err := CheckKey(cert.PublicKey); err != nil {
		return ID{}, fmt.Errorf("%s: %w", id, err)
	}
	return id, nil
}

// leafID reads the one URI name. It does not use cert.URIs: url.URL drops an
// empty fragment, so "spiffe://a/b#" would come back as another name than the
// one that was signed.
func leafID(cert *x509.Certificate) (ID, error) {
	san := extension(cert, extSubjectAltName)
	if san == nil {
		return ID{}, errors.New("has no URI name") // X509-SVID 5.2
	}
	uris, err := uriNames(san.Value)
	if err != nil {
		return ID{}, err
	}
	if len(uris) != 1 {
		return ID{}, fmt.Errorf("has %d URI names, exactly one is allowed", len(uris))
	}
	id, err := ParseID(uris[0])
	if err != nil {
		return ID{}, err
	}
	if id.Path() == "" {
		return ID{}, fmt.Errorf("%s: has no path, so it is not a workload's", id) // X509-SVID 5.2
	}
	if isEmptySequence(cert.RawSubject) && !san.Critical {
		return ID{}, fmt.Errorf("%s: subject is empty and the names are not critical", id) // RFC 5280 4.2.1.6
	}
	return id, nil
}

func checkLeafUsage(cert *x509.Certificate) error {
	usage := extension(cert, extKeyUsage)
	switch {
	case usage == nil:
		return errors.New("has no key usage") // X509-SVID 4.3
	case !usage.Critical:
		return errors.New("key usage is not critical") // X509-SVID 4.3
	case cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return errors.New("may sign certificates (keyCertSign)") // X509-SVID 5.2
	case cert.KeyUsage&x509.KeyUsageCRLSign != 0:
		return errors.New("may sign revocation lists (cRLSign)") // X509-SVID 5.2
	case cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("may not sign handshakes (digitalSignature)") // X509-SVID 4.3
	}
	if extension(cert, extExtendedKeyUsage) == nil {
		return nil // X509-SVID 4.4: should be there, need not
	}
	server := slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	client := slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	if !server || !client {
		return errors.New("extended key usage does not hold both serverAuth and clientAuth") // X509-SVID 4.4
	}
	return nil
}

// checkIntermediate checks a signing certificate that came with the chain.
func checkIntermediate(cert *x509.Certificate) error {
	usage := extension(cert, extKeyUsage)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return errors.New("is not a certificate authority") // X509-SVID 4.1
	case usage == nil || !usage.Critical:
		return errors.New("has no critical key usage") // X509-SVID 4.3
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return errors.New("may not sign certificates (keyCertSign)") // X509-SVID 4.3
	}
	if err := checkSignerID(cert); err != nil {
		return err
	}
	return CheckKey(cert.PublicKey)
}

// checkRoot is milder: a root is trusted because it is in the bundle, and
// roots of enterprises are often older than these rules.
func checkRoot(cert *x509.Certificate) error {
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return errors.New("is not a certificate authority")
	}
	if extension(cert, extKeyUsage) != nil && cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("may not sign certificates (keyCertSign)")
	}
	if err := checkSignerID(cert); err != nil {
		return err
	}
	return CheckKey(cert.PublicKey)
}

// checkSignerID: X509-SVID 3.2, the ID of a signing certificate has no path.
func checkSignerID(cert *x509.Certificate) error {
	san := extension(cert, extSubjectAltName)
	if san == nil {
		return nil
	}
	uris, err := uriNames(san.Value)
	if err != nil {
		return err
	}
	for _, uri := range uris {
		if !strings.HasPrefix(strings.ToLower(uri), "spiffe:") {
			continue
		}
		id, err := ParseID(uri)
		if err != nil {
			return err
		}
		if id.Path() != "" {
			return fmt.Errorf("signs certificates and has the ID %s, which has a path", id)
		}
	}
	return nil
}

func extension(cert *x509.Certificate, number int) *pkix.Extension {
	for i := range cert.Extensions {
		e := &cert.Extensions[i]
		if len(e.Id) == 4 && e.Id[3] == number && e.Id[0] == 2 && e.Id[1] == 5 && e.Id[2] == 29 {
			return e
		}
	}
	return nil
}

// uriNames are the uniformResourceIdentifier names of a subjectAltName, byte
// for byte as they were signed.
func uriNames(san []byte) ([]string, error) {
	der := cryptobyte.String(san)
	var names cryptobyte.String
	if !der.ReadASN1(&names, cbasn1.SEQUENCE) || !der.Empty() {
		return nil, errors.New("subject alternative names are malformed")
	}
	var uris []string
	for !names.Empty() {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return nil, errors.New("subject alternative names are malformed")
		}
		if tag == cbasn1.Tag(6).ContextSpecific() {
			uris = append(uris, string(name))
		}
	}
	return uris, nil
}

func isEmptySequence(der []byte) bool {
	return len(der) == 2 && der[0] == asn1.TagSequence|0x20 && der[1] == 0
}
