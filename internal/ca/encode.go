package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"reflect"
	"slices"
	"time"
)

// create signs a template. A plain leaf is written here, byte for byte what
// crypto/x509 would write and a test compares: of the time of a batch it spends
// an eighth on reflection. Everything else is left to it.
func create(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	public, ok := signer.Public().(*ecdsa.PublicKey)
	if !ok || !plainLeaf(template) {
		return x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	}
	spki, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	tbs, err := leafTBS(template, parent, spki)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(tbs)
	signature, err := signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	// As crypto/x509 does: a signer that errs must not show what it erred with.
	if !ecdsa.VerifyASN1(public, digest[:], signature) {
		return nil, errors.New("the signature made does not verify")
	}
	return der(0x30, tbs, ecdsaWithSHA256(), der(0x03, []byte{0}, signature)), nil
}

// encodeKey is the SubjectPublicKeyInfo of a key: for P-256, which nearly all are,
// what crypto/x509 would write and a test compares.
func encodeKey(key crypto.PublicKey) ([]byte, error) {
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return x509.MarshalPKIXPublicKey(key)
	}
	point, err := public.Bytes()
	if err != nil {
		return nil, err
	}
	return der(0x30,
		[]byte{
			0x30, 19, 0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, // id-ecPublicKey
			0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, // prime256v1
		},
		der(0x03, []byte{0}, point)), nil
}

// plainLeaf reports whether leafTBS writes all that a template says.
func plainLeaf(t *x509.Certificate) bool {
	rest := *t
	if rest.SerialNumber == nil || rest.SerialNumber.Sign() <= 0 ||
		len(rest.SubjectKeyId) == 0 || len(rest.URIs) != 1 || rest.KeyUsage != x509.KeyUsageDigitalSignature ||
		!slices.Equal(rest.ExtKeyUsage, leafUsages()) || !rest.BasicConstraintsValid || rest.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return false
	}
	rest.SerialNumber, rest.SubjectKeyId, rest.URIs, rest.DNSNames = nil, nil, nil, nil
	rest.KeyUsage, rest.ExtKeyUsage, rest.BasicConstraintsValid, rest.SignatureAlgorithm = 0, nil, false, 0
	rest.NotBefore, rest.NotAfter = time.Time{}, time.Time{}
	return reflect.ValueOf(&rest).Elem().IsZero() // without a second one to compare with
}

// leafTBS is the TBSCertificate (RFC 5280 4.1) of a leaf.
func leafTBS(t, parent *x509.Certificate, spki []byte) ([]byte, error) {
	if len(parent.RawSubject) == 0 || len(parent.SubjectKeyId) == 0 {
		return nil, errors.New("issuer has no subject or no key ID")
	}
	names, err := alternativeNames(t.DNSNames, t.URIs[0])
	if err != nil {
		return nil, err
	}
	extensions := der(0x30,
		extension(15, true, der(0x03, []byte{7, 0x80})), // digitalSignature
		extension(37, false, der(0x30, // serverAuth, clientAuth
			[]byte{0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1}, []byte{0x06, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2})),
		extension(19, true, der(0x30)), // not a CA
		extension(14, false, der(0x04, t.SubjectKeyId)),
		extension(35, false, der(0x30, der(0x80, parent.SubjectKeyId))),
		extension(17, true, names), // critical, as the subject is empty
	)
	return der(0x30,
		der(0xa0, der(0x02, []byte{2})), // version 3
		derInteger(t.SerialNumber),
		ecdsaWithSHA256(),
		parent.RawSubject,
		der(0x30, derTime(t.NotBefore), derTime(t.NotAfter)),
		der(0x30), // the ID is the only name
		spki,
		der(0xa3, extensions),
	), nil
}

func alternativeNames(hosts []string, id *url.URL) ([]byte, error) {
	var names []byte
	for _, host := range hosts {
		names = append(names, der(0x82, []byte(host))...)
	}
	uri := id.String()
	names = append(names, der(0x86, []byte(uri))...)
	for _, text := range append([]string{uri}, hosts...) {
		for i := range len(text) {
			if text[i] >= 0x80 {
				return nil, errors.New("a name is not ASCII")
			}
		}
	}
	return der(0x30, names), nil
}

// ecdsaWithSHA256 is the AlgorithmIdentifier of RFC 5758 3.2.
func ecdsaWithSHA256() []byte {
	return []byte{0x30, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2}
}

// extension is one of id-ce, 2.5.29.
func extension(id byte, critical bool, value []byte) []byte {
	oid := []byte{0x06, 3, 0x55, 0x1d, id}
	if critical {
		return der(0x30, oid, []byte{0x01, 1, 0xff}, der(0x04, value))
	}
	return der(0x30, oid, der(0x04, value))
}

// derInteger writes a positive number.
func derInteger(n *big.Int) []byte {
	bytes := n.Bytes()
	if bytes[0] >= 0x80 {
		return der(0x02, []byte{0}, bytes)
	}
	return der(0x02, bytes)
}

// derTime writes UTCTime until 2049 and GeneralizedTime from then on (RFC 5280
// 4.1.2.5).
func derTime(t time.Time) []byte {
	t = t.UTC()
	if year := t.Year(); year >= 1950 && year < 2050 {
		return der(0x17, t.AppendFormat(nil, "060102150405Z"))
	}
	return der(0x18, t.AppendFormat(nil, "20060102150405Z"))
}

// der writes one value: tag, length, and the parts of its content.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	out := make([]byte, 0, n+6)
	out = append(out, tag)
	switch {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	for _, part := range parts {
		out = append(out, part...)
	}
	return out
}
