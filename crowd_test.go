package kith

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"
)

func leafOf(t testing.TB, path string) *x509.Certificate {
	leaf, _ := leafAndKey(t, path)
	return leaf
}

func leafAndKey(t testing.TB, path string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: path}},
	}
	template.Subject.CommonName = "leaf"
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// T5: one caller cannot take all of a listener's connections.
func TestConnectionsOfOnePeerAreLimited(t *testing.T) {
	t.Parallel()
	var c conns
	c.init(maxOfOnePeer)
	web := []*x509.Certificate{leafOf(t, "/vms/web")}
	var first *acceptedConn
	for i := range maxOfOnePeer {
		conn := &acceptedConn{chain: web}
		if !c.add(conn) {
			t.Fatalf("connection %d is refused", i)
		}
		if first == nil {
			first = conn
		}
	}
	over := &acceptedConn{chain: web}
	if c.add(over) {
		t.Error("one connection too many")
	}
	c.remove(over) // as its Close does: it frees nothing
	if c.add(&acceptedConn{chain: web}) {
		t.Error("a refused connection freed a place")
	}
	if !c.add(&acceptedConn{chain: []*x509.Certificate{leafOf(t, "/vms/batch")}}) {
		t.Error("another caller is refused")
	}
	c.remove(first)
	c.remove(first)
	if !c.add(&acceptedConn{chain: web}) || c.add(&acceptedConn{chain: web}) {
		t.Error("a closed connection frees one place")
	}
}
