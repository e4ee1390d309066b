package spiffe_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// A fixed source serves one SVID. A real one, such as the Kith SDK's, swaps
// it when it is renewed.
type fixed struct {
	svid   *spiffe.X509SVID
	bundle *spiffe.Bundle
}

func (f fixed) X509SVID() (*spiffe.X509SVID, error) { return f.svid, nil }

func (f fixed) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return f.bundle, td == f.bundle.TrustDomain()
}

// Two services of one trust domain make a connection on which both know who
// the other is. No host name is involved.
func Example() {
	orders, web := exampleSources()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer listener.Close()
	go func() {
		client := spiffe.ClientTLS(web, time.Now, func(id spiffe.ID) error {
			if id.Path() != "/prod/orders" {
				return errors.New("that is not orders")
			}
			return nil
		})
		conn, err := tls.Dial("tcp", listener.Addr().String(), client)
		if err != nil {
			log.Fatal(err)
		}
		conn.Close()
	}()

	conn, err := listener.Accept()
	if err != nil {
		log.Fatal(err)
	}
	server := tls.Server(conn, spiffe.ServerTLS(orders, time.Now, nil))
	defer server.Close()
	if err := server.Handshake(); err != nil {
		log.Fatal(err)
	}
	peer, err := spiffe.PeerID(server.ConnectionState())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(peer)
	// Output: spiffe://acme.example/prod/web
}

func ExampleParseID() {
	id, err := spiffe.ParseID("spiffe://acme.example/prod/orders")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id.TrustDomain(), id.Path())
	_, err = spiffe.ParseID("spiffe://acme.example/prod/../admin")
	fmt.Println(err)
	// Output:
	// acme.example /prod/orders
	// SPIFFE ID "spiffe://acme.example/prod/../admin": path has the segment ".."
}

// exampleSources stands for a control plane: it makes a root and two SVIDs.
func exampleSources() (orders, web fixed) {
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		log.Fatal(err)
	}
	rootKey, root := exampleCertificate(td.ID(), nil, nil)
	bundle := spiffe.NewBundle(td, 1, 0, root)
	source := func(path string) fixed {
		id, err := spiffe.NewID(td, path)
		if err != nil {
			log.Fatal(err)
		}
		key, cert := exampleCertificate(id, root, rootKey)
		return fixed{&spiffe.X509SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}, bundle}
	}
	return source("/prod/orders"), source("/prod/web")
}

func exampleCertificate(id spiffe.ID, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: id.TrustDomain().String(), Path: id.Path()}},
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	if parent == nil {
		template.Subject.CommonName, template.IsCA, template.KeyUsage = "root", true, x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		log.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		log.Fatal(err)
	}
	return key, cert
}
