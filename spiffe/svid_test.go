package spiffe_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// keyUsage puts the extension in with the given bits (most significant first).
func keyUsage(critical bool, bits byte) change {
	return func(c *x509.Certificate) {
		c.KeyUsage = 0
		der, err := asn1.Marshal(asn1.BitString{Bytes: []byte{bits}, BitLength: 8})
		if err != nil {
			panic(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: critical, Value: der})
	}
}

func pkcs8(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseX509SVID(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child()
	svid := issuing.svid("/a/b", issuing.cert)
	key, err := svid.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	got, err := spiffe.ParseX509SVID(svid.MarshalChain(), key)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != svid.ID || len(got.Certificates) != 2 || !got.Expiry().Equal(svid.Certificates[0].NotAfter) {
		t.Errorf("got %s with %d certificates until %s", got.ID, len(got.Certificates), got.Expiry())
	}
	tlsCert := got.TLSCertificate()
	if len(tlsCert.Certificate) != 2 || tlsCert.Leaf != got.Certificates[0] || tlsCert.PrivateKey == nil {
		t.Error("TLSCertificate is incomplete")
	}
	if _, err := root.verify(got.Certificates...); err != nil {
		t.Error(err)
	}
	if !(&spiffe.X509SVID{}).Expiry().IsZero() {
		t.Error("an SVID without a certificate has not expired")
	}
}

func TestParseX509SVIDRefuses(t *testing.T) {
	root := newRoot(t, "acme.example")
	key, other := newKey(t), newKey(t)
	leaf := root.leafFor(key, "/a")
	for why, in := range map[string][2][]byte{
		"chain is empty":                {nil, pkcs8(t, key)},
		"parse chain":                   {leaf.Raw[1:], pkcs8(t, key)},
		"not the leaf's":                {leaf.Raw, pkcs8(t, other)},
		"parse private key":             {leaf.Raw, []byte("key")},
		"at most 16384":                 {leaf.Raw, make([]byte, 16<<10+1)},
		"certificate 1 of the chain":    {append(append([]byte{}, leaf.Raw...), leaf.Raw...), pkcs8(t, key)},
		"is a certificate authority":    {root.leafFor(key, "/a", func(c *x509.Certificate) { c.IsCA = true }).Raw, pkcs8(t, key)},
		"another curve than P-256 and ": {leaf.Raw, pkcs8(t, mustECDSA(t, elliptic.P521()))},
	} {
		_, err := spiffe.ParseX509SVID(in[0], in[1])
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("error is %v, want it to say %q", err, why)
		}
	}
}

func mustECDSA(t testing.TB, curve elliptic.Curve) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeyPolicy(t *testing.T) {
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaOf := func(bits int, e int) *rsa.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: e}
	}
	for name, c := range map[string]struct {
		key crypto.PublicKey
		ok  bool
	}{
		"P-256":         {mustECDSA(t, elliptic.P256()).Public(), true},
		"P-384":         {mustECDSA(t, elliptic.P384()).Public(), true},
		"P-224":         {mustECDSA(t, elliptic.P224()).Public(), false},
		"P-521":         {mustECDSA(t, elliptic.P521()).Public(), false},
		"Ed25519":       {edwards, true},
		"short Ed25519": {edwards[1:], false},
		"RSA 1024":      {rsaOf(1024, 65537), false},
		"RSA 2047":      {rsaOf(2047, 65537), false},
		"RSA 2048":      {rsaOf(2048, 65537), true},
		"RSA 4096":      {rsaOf(4096, 65537), true},
		"RSA 4097":      {rsaOf(4097, 65537), false},
		"RSA e=3":       {rsaOf(2048, 3), false},
		"RSA even e":    {rsaOf(2048, 65538), false},
		"empty RSA":     {&rsa.PublicKey{}, false},
		"nil RSA":       {(*rsa.PublicKey)(nil), false},
		"nil ECDSA":     {(*ecdsa.PublicKey)(nil), false},
		"none":          {nil, false},
		"other":         {"key", false},
	} {
		if err := spiffe.CheckKey(c.key); (err == nil) != c.ok {
			t.Errorf("%s: CheckKey = %v, want accepted %t", name, err, c.ok)
		}
	}
}

func TestWeakKeysInChains(t *testing.T) {
	root := newRoot(t, "acme.example")
	weak := mustECDSA(t, elliptic.P521())
	refused(t, root, "another curve", root.leafFor(weak, "/a"))
	issuing := &authority{t: t, td: root.td, key: weak}
	issuing.cert = sign(t, caTemplate(root.td, "weak"), root.cert, weak.Public(), root.key, nil)
	refused(t, root, "another curve", issuing.leaf("/a"), issuing.cert)
	weakRoot := &authority{t: t, td: root.td, key: weak}
	weakRoot.cert = sign(t, caTemplate(root.td, "weak"), nil, weak.Public(), weak, nil)
	refused(t, weakRoot, "another curve", weakRoot.leaf("/a"))
}

// An operator's root may lack the SPIFFE form, but must be an authority.
func TestRootForms(t *testing.T) {
	plain := newRoot(t, "acme.example", func(c *x509.Certificate) { c.URIs, c.KeyUsage = nil, 0 })
	if _, err := plain.verify(plain.leaf("/a")); err != nil {
		t.Errorf("a root without ID and key usage: %v", err)
	}
	crl := newRoot(t, "acme.example", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	refused(t, crl, "verify spiffe://acme.example/a", crl.leaf("/a"))
}
