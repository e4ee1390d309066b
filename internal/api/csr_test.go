package api

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"net/url"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

func request(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		DNSNames: []string{"ignored.example"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "evil.example", Path: "/root"}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func must[K any](t testing.TB) func(K, error) K {
	return func(key K, err error) K {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
}

func TestKeyOfTakesOnlyTheKey(t *testing.T) {
	p256 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	got, err := keyOf(request(t, p256))
	if err != nil || !p256.PublicKey.Equal(got) {
		t.Errorf("P-256: got %v %v, want the key", got, err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyOf(request(t, ed)); err != nil {
		t.Errorf("Ed25519: %v", err)
	}
}

func TestKeyOfRefuses(t *testing.T) {
	p256 := request(t, must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)))
	tampered := bytes.Clone(p256)
	tampered[len(tampered)-1] ^= 1
	for name, der := range map[string][]byte{
		"empty":          nil,
		"garbage":        []byte("not a request"),
		"oversize":       make([]byte, maxCSR+1),
		"trailing bytes": append(bytes.Clone(p256), 0),
		"bad signature":  tampered,
		"P-224":          request(t, must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))),
		"RSA 1024":       request(t, must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))),
	} {
		if _, err := keyOf(der); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: got %v, want Invalid", name, err)
		}
	}
}

func FuzzKeyOf(f *testing.F) {
	f.Add(request(f, must[*ecdsa.PrivateKey](f)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		if key, err := keyOf(der); (key == nil) == (err == nil) {
			t.Errorf("key %v with error %v", key, err)
		}
	})
}
