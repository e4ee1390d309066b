package ca

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/kith-id/kith/spiffe"
)

// linted is an SVID, or a certificate of an authority, that may leave the process.
// Only this file, jwtlint.go and witlint.go make one, out of the bytes that were
// signed; a test says so.
type linted[S any] struct{ svid *S }

// expectation is what a certificate was asked to be.
type expectation struct {
	id        spiffe.ID
	serial    *big.Int
	spki      []byte
	notBefore time.Time
	notAfter  time.Time
	dns       []string
	issuer    *x509.Certificate // nil: itself
	pathLen   int               // of an authority; -1: none
}

// entry is the journal's intent of making what is expected.
func (w expectation) entry(kind EntryKind, now time.Time) Entry {
	sum := sha256.Sum256(w.spki)
	e := Entry{
		Kind: kind, Time: now, Serial: w.serial.Text(16), ID: w.id.String(),
		KeyHash: hex.EncodeToString(sum[:]), NotAfter: w.notAfter,
	}
	if w.issuer != nil {
		e.Issuer = w.issuer.SerialNumber.Text(16)
	}
	return e
}

type lint struct {
	name  string
	check func(*x509.Certificate, expectation) error
}

// lintLeaf parses what was signed and holds it against the profile of a leaf
// and against the request.
func lintLeaf(der []byte, want expectation) (linted[x509.Certificate], error) {
	lints := leafLints()
	return lintAll(der, want, lints[:])
}

// lintAuthority is lintLeaf for a root or an issuing CA.
func lintAuthority(der []byte, want expectation) (linted[x509.Certificate], error) {
	return lintAll(der, want, authorityLints())
}

func lintAll(der []byte, want expectation, lints []lint) (linted[x509.Certificate], error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return linted[x509.Certificate]{}, fmt.Errorf("lint parse: %w", err)
	}
	for _, l := range lints {
		if err := l.check(cert, want); err != nil {
			return linted[x509.Certificate]{}, fmt.Errorf("lint %s: %w", l.name, err)
		}
	}
	return linted[x509.Certificate]{cert}, nil
}

// leafLints is the profile of a leaf. It repeats in other words what the
// template says: the two must agree, whoever changes one of them.
func leafLints() [15]lint {
	return [15]lint{
		{"svid", lintSVID}, // one URI name, its form and path; usages; key; not a CA
		{"trust-domain", lintTrustDomain},
		{"uri-length", lintURILength},
		{"names", lintNames},
		{"subject", lintSubject},
		{"serial", lintSerial},
		{"validity", lintValidity},
		{"key", lintKey},
		{"key-ids", lintKeyIDs},
		{"issuer", lintIssuer},
		{"algorithm", lintAlgorithm},
		{"key-usage", func(cert *x509.Certificate, _ expectation) error {
			return lintKeyUsage(cert, x509.KeyUsageDigitalSignature)
		}},
		{"extended-key-usage", lintExtendedKeyUsage},
		{"constraints", func(cert *x509.Certificate, _ expectation) error { return lintConstraints(cert, false, -1) }},
		{"extensions", func(cert *x509.Certificate, _ expectation) error {
			return lintExtensions(cert, profile{14: true, 35: true, 15: true, 17: true, 19: true, 37: true}, profile{15: true, 17: true, 19: true})
		}},
	}
}

// authorityLints is the profile of a root and of an issuing CA.
func authorityLints() []lint {
	return []lint{
		{"authority-id", lintAuthorityID},
		{"names", lintNames},
		{"serial", lintSerial},
		{"validity", lintValidity},
		{"key", lintKey},
		{"key-ids", lintKeyIDs},
		{"issuer", lintIssuer},
		{"algorithm", lintAlgorithm},
		{"signature", lintSignature},
		{"key-usage", func(cert *x509.Certificate, _ expectation) error {
			return lintKeyUsage(cert, x509.KeyUsageCertSign|x509.KeyUsageCRLSign)
		}},
		{"constraints", func(cert *x509.Certificate, want expectation) error {
			return lintConstraints(cert, true, want.pathLen)
		}},
		{"extensions", func(cert *x509.Certificate, want expectation) error {
			allowed := profile{14: true, 15: true, 17: true, 19: true}
			allowed[35] = want.issuer != nil
			return lintExtensions(cert, allowed, profile{15: true, 19: true})
		}},
	}
}

func lintSVID(cert *x509.Certificate, want expectation) error {
	id, err := spiffe.CertificateID(cert)
	if err != nil {
		return err
	}
	if id != want.id {
		return fmt.Errorf("ID is %s, not %s", id, want.id)
	}
	return nil
}

func lintTrustDomain(cert *x509.Certificate, want expectation) error {
	if len(want.issuer.URIs) != 1 || want.issuer.URIs[0].String() != want.id.TrustDomain().ID().String() {
		return errors.New("issuer is of another trust domain")
	}
	return nil
}

func lintURILength(cert *x509.Certificate, _ expectation) error {
	if n := len(cert.URIs[0].String()); n > 2048 { // lintSVID has found one
		return fmt.Errorf("URI has %d bytes", n)
	}
	return nil
}

// lintNames counts all names, also those of kinds crypto/x509 does not show.
func lintNames(cert *x509.Certificate, want expectation) error {
	for _, e := range cert.Extensions {
		if !e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		n, err := countNames(e.Value)
		if err != nil {
			return err
		}
		if n != 1+len(want.dns) {
			return fmt.Errorf("has %d names, not %d", n, 1+len(want.dns))
		}
		if !slices.Equal(cert.DNSNames, want.dns) {
			return fmt.Errorf("DNS names are %q, not %q", cert.DNSNames, want.dns)
		}
		return nil
	}
	return errors.New("has no names")
}

// countNames counts a SubjectAltName's (RFC 5280 4.2.1.6), of whatever kinds.
func countNames(value []byte) (int, error) {
	rest, names := cryptobyte.String(value), cryptobyte.String(nil)
	if !rest.ReadASN1(&names, cbasn1.SEQUENCE) || !rest.Empty() {
		return 0, errors.New("names are malformed")
	}
	n := 0
	for ; !names.Empty(); n++ {
		var name cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return 0, errors.New("names are malformed")
		}
	}
	return n, nil
}

func lintSubject(cert *x509.Certificate, _ expectation) error {
	if !bytes.Equal(cert.RawSubject, []byte{0x30, 0}) {
		return errors.New("subject is not empty: the ID is the only name")
	}
	return nil
}

func lintSerial(cert *x509.Certificate, want expectation) error {
	if cert.SerialNumber.Cmp(want.serial) != 0 {
		return errors.New("serial is not the journalled one")
	}
	if bits := cert.SerialNumber.BitLen(); cert.SerialNumber.Sign() <= 0 || bits < 64 || bits > 159 {
		return fmt.Errorf("serial has %d bits", bits)
	}
	return nil
}

func lintValidity(cert *x509.Certificate, want expectation) error {
	switch {
	case !cert.NotBefore.Equal(want.notBefore) || !cert.NotAfter.Equal(want.notAfter):
		return fmt.Errorf("validity is %s to %s, not %s to %s", cert.NotBefore, cert.NotAfter, want.notBefore, want.notAfter)
	case !cert.NotBefore.Before(cert.NotAfter):
		return errors.New("ends before it begins")
	case want.issuer != nil && (cert.NotAfter.After(want.issuer.NotAfter) || cert.NotBefore.Before(want.issuer.NotBefore)):
		return errors.New("is valid when its issuer is not")
	}
	return nil
}

func lintKey(cert *x509.Certificate, want expectation) error {
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, want.spki) {
		return errors.New("key is not the requested one")
	}
	return spiffe.CheckKey(cert.PublicKey)
}

func lintKeyIDs(cert *x509.Certificate, want expectation) error {
	if !bytes.Equal(cert.SubjectKeyId, keyID(want.spki)) {
		return errors.New("subject key ID is not that of the key")
	}
	if want.issuer != nil && !bytes.Equal(cert.AuthorityKeyId, want.issuer.SubjectKeyId) {
		return errors.New("authority key ID is not that of the issuer")
	}
	return nil
}

func lintIssuer(cert *x509.Certificate, want expectation) error {
	subject := cert.RawSubject
	if want.issuer != nil {
		subject = want.issuer.RawSubject
	}
	if !bytes.Equal(cert.RawIssuer, subject) {
		return errors.New("issuer is not the signer's subject")
	}
	return nil
}

func lintAlgorithm(cert *x509.Certificate, _ expectation) error {
	if cert.Version != 3 || cert.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return fmt.Errorf("version %d, signed with %s", cert.Version, cert.SignatureAlgorithm)
	}
	return nil
}

// lintSignature is for authorities, which are few. For a leaf it would double
// the price, and create checks each signature it makes, as crypto/x509 does.
func lintSignature(cert *x509.Certificate, want expectation) error {
	if want.issuer == nil {
		return cert.CheckSignatureFrom(cert)
	}
	return cert.CheckSignatureFrom(want.issuer)
}

func lintAuthorityID(cert *x509.Certificate, want expectation) error {
	if len(cert.URIs) != 1 || cert.URIs[0].String() != want.id.String() {
		return fmt.Errorf("URI names are %v, not %s", cert.URIs, want.id)
	}
	if bytes.Equal(cert.RawSubject, []byte{0x30, 0}) {
		return errors.New("subject is empty") // RFC 5280 4.1.2.6
	}
	return nil
}

func lintKeyUsage(cert *x509.Certificate, usage x509.KeyUsage) error {
	if cert.KeyUsage != usage {
		return fmt.Errorf("key usage is %#x, not %#x", cert.KeyUsage, usage)
	}
	return nil
}

func lintExtendedKeyUsage(cert *x509.Certificate, _ expectation) error {
	if len(cert.UnknownExtKeyUsage) > 0 || !slices.Equal(cert.ExtKeyUsage, leafUsages()) {
		return fmt.Errorf("extended key usage is %v %v", cert.ExtKeyUsage, cert.UnknownExtKeyUsage)
	}
	return nil
}

func leafUsages() []x509.ExtKeyUsage {
	return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}

func lintConstraints(cert *x509.Certificate, isCA bool, pathLen int) error {
	if !cert.BasicConstraintsValid || cert.IsCA != isCA || isCA && cert.MaxPathLen != pathLen {
		return fmt.Errorf("basic constraints are %t, CA %t, path length %d", cert.BasicConstraintsValid, cert.IsCA, cert.MaxPathLen)
	}
	return nil
}

// profile is a set of extensions by their number below 2.5.29.
type profile [64]bool

// lintExtensions allows the given extensions below 2.5.29, all of which must be
// there, critical exactly those that are to be.
func lintExtensions(cert *x509.Certificate, allowed, critical profile) error {
	found := 0
	for _, e := range cert.Extensions {
		if len(e.Id) != 4 || e.Id[0] != 2 || e.Id[1] != 5 || e.Id[2] != 29 ||
			e.Id[3] < 0 || e.Id[3] >= len(allowed) || !allowed[e.Id[3]] {
			return fmt.Errorf("extension %s is not of the profile", e.Id)
		}
		if e.Critical != critical[e.Id[3]] {
			return fmt.Errorf("extension %s: critical is %t", e.Id, e.Critical)
		}
		found++ // none occurs twice: the parser refuses that
	}
	want := 0
	for _, there := range allowed {
		if there {
			want++
		}
	}
	if found != want {
		return fmt.Errorf("has %d extensions, not %d", found, want)
	}
	return nil
}

// checkStoredRoot is what a root must be to be used, whoever made it.
func checkStoredRoot(cert *x509.Certificate, td spiffe.TrustDomain) error {
	want := expectation{id: td.ID(), pathLen: -1}
	for _, check := range []func(*x509.Certificate, expectation) error{lintAuthorityID, lintSignature} {
		if err := check(cert, want); err != nil {
			return err
		}
	}
	if err := lintConstraints(cert, true, -1); err != nil {
		return err
	}
	return spiffe.CheckKey(cert.PublicKey)
}
