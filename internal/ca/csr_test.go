package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

func csrOf(t testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// hostileCSR asks for all that it must not get.
func hostileCSR(t testing.TB, key crypto.Signer) []byte {
	return csrOf(t, key, x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "spiffe://acme.example/admin"},
		URIs:     []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/admin"}, {Scheme: "spiffe", Host: "acme.example", Path: "/b"}},
		DNSNames: []string{"*"}, IPAddresses: []net.IP{{127, 0, 0, 1}}, EmailAddresses: []string{"root@acme.example"},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // CA
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{3, 2, 1, 6}},          // keyCertSign
		},
	})
}

// T8: a request brings a key and nothing else into the certificate.
func TestCSRGivesOnlyAKey(t *testing.T) {
	f := newFixture(t)
	key := newKey(t)
	public, err := ParseCSR(hostileCSR(t, key))
	if err != nil || !public.(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Fatalf("ParseCSR: %v", err)
	}
	r := request(t, "/a")
	r.PublicKey = public
	chain, err := f.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	leaf := chain[0]
	if id, err := spiffe.CertificateID(leaf); err != nil || id != r.ID || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.IsCA {
		t.Errorf("leaf of %s, %v: %v %v %v, CA %t", id, err, leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, leaf.IsCA)
	}
}

func TestParseCSRRefuses(t *testing.T) {
	key := newKey(t)
	good := csrOf(t, key, x509.CertificateRequest{})
	unproven := append([]byte{}, good...)
	unproven[len(unproven)-1] ^= 1
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sha1 := csrOf(t, weak, x509.CertificateRequest{SignatureAlgorithm: x509.SHA256WithRSA})
	if _, err := ParseCSR(sha1); err != nil {
		t.Errorf("RSA 2048 with SHA-256: %v", err)
	}
	for why, der := range map[string][]byte{
		"at most 8192":        make([]byte, maxCSR+1),
		"certificate request": {},
		"data truncated":      good[:len(good)-3],
		"trailing data":       append(append([]byte{}, good...), 0),
		"does not prove":      unproven,
		"another curve":       csrOf(t, p521, x509.CertificateRequest{}),
		"prove its key":       swapKey(t, good, key, newKey(t)),
	} {
		if _, err := ParseCSR(der); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), why) {
			t.Errorf("error is %v, want it to say %q", err, why)
		}
	}
}

// swapKey puts another's public key into a request its owner has signed.
func swapKey(t *testing.T, der []byte, from, to crypto.Signer) []byte {
	t.Helper()
	a, err := from.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b, err := to.Public().(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return []byte(strings.Replace(string(der), string(a), string(b), 1))
}

func FuzzParseCSR(f *testing.F) {
	key := newKey(f)
	f.Add(csrOf(f, key, x509.CertificateRequest{}))
	f.Add(hostileCSR(f, key))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		public, err := ParseCSR(der)
		if err != nil {
			if public != nil || !fault.Is(err, fault.Invalid) {
				t.Fatalf("key %v beside the error %v", public, err)
			}
			return
		}
		if err := spiffe.CheckKey(public); err != nil {
			t.Fatalf("accepted a key that is not allowed: %v", err)
		}
	})
}
