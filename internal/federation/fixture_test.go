package federation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a root that signs what a test needs, of any kind.
type authority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return &authority{t: t, key: key, root: sign(t, template, template, key.Public(), key)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, public any, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// leaf signs a certificate for a web server at 127.0.0.1 or, with an ID, an SVID.
func (a *authority) leaf(id string, edit func(*x509.Certificate)) *tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if id == "" {
		template.DNSNames, template.IPAddresses = []string{"bundles.test"}, []net.IP{{127, 0, 0, 1}}
	} else {
		uri, err := url.Parse(id)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = []*url.URL{uri}
	}
	if edit != nil {
		edit(template)
	}
	cert := sign(a.t, template, a.root, key.Public(), a.key)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// bundle is the authority as the bundle of a trust domain.
func (a *authority) bundle(td string, sequence uint64) *spiffe.Bundle {
	return spiffe.NewBundle(domain(a.t, td), sequence, 0, a.root)
}

func (a *authority) document(td string, sequence uint64) []byte {
	a.t.Helper()
	document, err := a.bundle(td, sequence).Marshal()
	if err != nil {
		a.t.Fatal(err)
	}
	return document
}

func domain(t testing.TB, name string) spiffe.TrustDomain {
	t.Helper()
	td, err := spiffe.ParseTrustDomain(name)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

func id(t testing.TB, text string) spiffe.ID {
	t.Helper()
	out, err := spiffe.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// listen serves handler on 127.0.0.1 with a certificate, as any web server may.
func listen(t testing.TB, cert *tls.Certificate, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

func answering(document []byte) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) { writeJSON(rw, document) }
}

// local is networks that tests dial and products do not.
func local() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} }

func web(t testing.TB, url string) registry.Federation {
	return registry.Federation{TrustDomain: domain(t, "other.example"), URL: url, Profile: registry.HTTPSWeb}
}

func strict(t testing.TB, url, endpoint string) registry.Federation {
	return registry.Federation{TrustDomain: domain(t, "other.example"), URL: url, Profile: registry.HTTPSSPIFFE, EndpointID: id(t, endpoint)}
}

func logger(t testing.TB) *slog.Logger {
	out := io.Writer(io.Discard)
	if testing.Verbose() {
		out = t.Output()
	}
	return slog.New(slog.NewTextHandler(out, nil))
}
