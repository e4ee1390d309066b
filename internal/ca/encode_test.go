package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kith-id/kith/internal/keys"
)

// TestLeafIsWrittenAsCryptoX509WouldWriteIt: what is signed is the same, byte
// for byte, whatever the names, the serial and the times.
func TestLeafIsWrittenAsCryptoX509WouldWriteIt(t *testing.T) {
	f := newFixture(t)
	issuer := f.current.Load()
	leafKey, err := keys.Generate()
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(leafKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(r *rapid.T) {
		template := plainTemplate(r, spki)
		if !plainLeaf(template) {
			r.Fatalf("not plain: %+v", template)
		}
		ours, err := create(template, issuer.cert, leafKey.Public(), issuer.key)
		if err != nil {
			r.Fatal(err)
		}
		theirs, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, leafKey.Public(), issuer.key)
		if err != nil {
			r.Fatal(err)
		}
		got, err := x509.ParseCertificate(ours)
		if err != nil {
			r.Fatalf("parse: %v", err)
		}
		want, err := x509.ParseCertificate(theirs)
		if err != nil {
			r.Fatal(err)
		}
		if !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) {
			r.Fatalf("got  %x\nwant %x", got.RawTBSCertificate, want.RawTBSCertificate)
		}
		if err := got.CheckSignatureFrom(issuer.cert); err != nil {
			r.Fatalf("signature: %v", err)
		}
	})
}

func plainTemplate(r *rapid.T, spki []byte) *x509.Certificate {
	serial := new(big.Int).SetBytes(rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(r, "serial"))
	serial.Add(serial, big.NewInt(1))
	from := time.Unix(rapid.Int64Range(0, 4_000_000_000).Draw(r, "from"), 0)
	var hosts []string
	for i := range rapid.IntRange(0, maxDNS).Draw(r, "hosts") {
		hosts = append(hosts, fmt.Sprintf("h%d.%s.example", i, strings.Repeat("a", rapid.IntRange(1, 60).Draw(r, "length"))))
	}
	return &x509.Certificate{
		SerialNumber: serial, NotBefore: from, NotAfter: from.Add(time.Duration(rapid.Int64Range(1, 1e6).Draw(r, "seconds")) * time.Second),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: leafUsages(), BasicConstraintsValid: true,
		SubjectKeyId: keyID(spki), SignatureAlgorithm: x509.ECDSAWithSHA256, DNSNames: hosts,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/" + strings.Repeat("p", rapid.IntRange(1, 1900).Draw(r, "path"))}},
	}
}

// TestOnlyAPlainLeafIsWrittenHere: a template that says anything more goes to
// crypto/x509, so nothing it says is left out.
func TestOnlyAPlainLeafIsWrittenHere(t *testing.T) {
	plain := func() *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(7), NotBefore: epoch, NotAfter: epoch.Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: leafUsages(), BasicConstraintsValid: true,
			SubjectKeyId: []byte{1}, SignatureAlgorithm: x509.ECDSAWithSHA256,
			URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/a"}},
		}
	}
	if !plainLeaf(plain()) {
		t.Fatal("a plain leaf is not plain")
	}
	for name, change := range map[string]func(*x509.Certificate){
		"ca":          func(c *x509.Certificate) { c.IsCA = true },
		"subject":     func(c *x509.Certificate) { c.Subject.CommonName = "orders" },
		"two IDs":     func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) },
		"email":       func(c *x509.Certificate) { c.EmailAddresses = []string{"a@b.example"} },
		"usage":       func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"ext usage":   func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
		"path length": func(c *x509.Certificate) { c.MaxPathLenZero = true },
		"OCSP":        func(c *x509.Certificate) { c.OCSPServer = []string{"http://a.example"} },
		"algorithm":   func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 },
		"no serial":   func(c *x509.Certificate) { c.SerialNumber = nil },
	} {
		template := plain()
		if change(template); plainLeaf(template) {
			t.Errorf("%s: taken for plain", name)
		}
	}
}

// Keys of every kind are written as crypto/x509 writes them.
func TestKeysAreWrittenAsCryptoX509WouldWriteThem(t *testing.T) {
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.PublicKey{small.Public(), large.Public(), edwards} {
		want, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encodeKey(key); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%T: got %x, %v, want %x", key, got, err, want)
		}
	}
}

// A signature in both its forms is the same two numbers, also where they are short.
func TestSignaturesForTokensAreTheSameNumbers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var want [64]byte
		numbers := struct{ R, S *big.Int }{new(big.Int), new(big.Int)}
		for i, n := range []*big.Int{numbers.R, numbers.S} {
			n.SetBytes(rapid.SliceOfN(rapid.Byte(), 1, 32).Draw(r, "number")).FillBytes(want[32*i : 32*i+32])
		}
		text, err := asn1.Marshal(numbers)
		if err != nil {
			r.Fatal(err)
		}
		if got, err := signatureHalves(text); err != nil || got != want {
			r.Fatalf("%x: got %x, %v, want %x", text, got, err, want)
		}
		if _, err := signatureHalves(text[:rapid.IntRange(0, len(text)-1).Draw(r, "cut")]); err == nil {
			r.Fatalf("%x cut short was taken", text)
		}
	})
}
