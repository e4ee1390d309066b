package federation

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kith-id/kith/spiffe"
)

// serving runs an endpoint with a certificate of the web and returns its URL.
func serving(t *testing.T, ca *authority, bundle func() *spiffe.Bundle) string {
	t.Helper()
	cert := ca.leaf("", nil)
	config := ServerTLS(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }, time.Now)
	return served(t, config, Endpoint(bundle))
}

func served(t *testing.T, config *tls.Config, handler http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, config, handler, logger(t)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String() + "/"
}

func clientOf(t *testing.T, config *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Rule 122: nothing is asked of a client. Rule 123: GET gives the newest bundle,
// UTF-8 and application/json. Rule 65, 66: with a sequence and a hint.
func TestEndpointGivesTheNewestBundle(t *testing.T) {
	ca, own := newAuthority(t, "web"), newAuthority(t, "own")
	var current atomic.Pointer[spiffe.Bundle]
	current.Store(spiffe.NewBundle(domain(t, "acme.example"), 3, 5*time.Minute, own.root))
	at := serving(t, ca, current.Load)
	client := clientOf(t, &tls.Config{RootCAs: ca.pool()})
	get := func() (*http.Response, []byte) {
		answer, err := client.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer, body
	}
	answer, body := get()
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/json" || !utf8.Valid(body) {
		t.Errorf("got %s %q", answer.Status, answer.Header.Get("Content-Type"))
	}
	var document map[string]any
	if err := json.Unmarshal(body, &document); err != nil || document["spiffe_sequence"] != 3.0 || document["spiffe_refresh_hint"] != 300.0 {
		t.Errorf("got %v (%v), want sequence 3 and hint 300", document, err)
	}
	current.Store(spiffe.NewBundle(domain(t, "acme.example"), 4, 0))
	if _, body := get(); !strings.Contains(string(body), `"spiffe_sequence":4`) || !strings.Contains(string(body), `"keys":[]`) {
		t.Errorf("got %s, want the newer bundle", body)
	}
	for method, want := range map[string]int{http.MethodHead: 200, http.MethodPost: 405, http.MethodDelete: 405} {
		request, err := http.NewRequest(method, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s: got %d, want %d", method, answer.StatusCode, want)
		}
	}
	if answer, err := client.Get(at + "secret"); err != nil || answer.StatusCode != 404 {
		t.Errorf("another path: got %v %v, want 404", answer, err)
	} else {
		answer.Body.Close()
	}
}

// Rule 117: TLS as Mozilla's intermediate configuration has it.
func TestEndpointSpeaksModernTLSOnly(t *testing.T) {
	ca := newAuthority(t, "web")
	at := serving(t, ca, func() *spiffe.Bundle { return ca.bundle("acme.example", 1) })
	address := strings.TrimSuffix(strings.TrimPrefix(at, "https://"), "/")
	for name, tc := range map[string]struct {
		config *tls.Config
		want   bool
	}{
		"1.3":         {&tls.Config{MinVersion: tls.VersionTLS13}, true},
		"1.2":         {&tls.Config{MaxVersion: tls.VersionTLS12}, true},
		"1.2 chacha":  {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}}, true},
		"1.2 CBC":     {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}}, false},
		"1.2 RSA":     {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}}, false},
		"1.1":         {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		"certificate": {&tls.Config{Certificates: []tls.Certificate{*ca.leaf("spiffe://acme.example/web", nil)}}, true},
	} {
		config := tc.config.Clone()
		config.RootCAs = ca.pool()
		conn, err := tls.Dial("tcp", address, config)
		if (err == nil) != tc.want {
			t.Errorf("%s: got %v, want it to work: %v", name, err, tc.want)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// Rule 14, 116, 126: the https_spiffe endpoint shows an SVID, which our own
// fetcher and any other client verify.
func TestEndpointBySVID(t *testing.T) {
	own := newAuthority(t, "own")
	cert := own.leaf("spiffe://other.example/kith/federation", nil)
	svid := &spiffe.X509SVID{
		ID:           id(t, "spiffe://other.example/kith/federation"),
		Certificates: []*x509.Certificate{cert.Leaf, own.root}, PrivateKey: cert.PrivateKey.(crypto.Signer),
	}
	at := served(t, ServerTLS(BySVID(func() (*spiffe.X509SVID, error) { return svid, nil }), time.Now), Endpoint(func() *spiffe.Bundle { return own.bundle("other.example", 2) }))
	bundles := spiffe.BundleMap{domain(t, "other.example"): own.bundle("other.example", 1)}
	f := NewFetcher(FetcherConfig{Allow: local(), Now: time.Now, Bundle: bundles.Bundle})
	got, err := f.Fetch(t.Context(), strict(t, at, "spiffe://other.example/kith/federation"))
	if err != nil || got.Bundle.Sequence() != 2 {
		t.Errorf("got %v, want the bundle with sequence 2", err)
	}
}

// A caller that holds connections open keeps others waiting, not the server: a
// slot is free again when one of them ends.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := bound(inner, 2, 0)
	accepted := make(chan net.Conn)
	ended := make(chan error, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn
		}
	}()
	for range 3 {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	first, second := <-accepted, <-accepted
	select {
	case <-accepted:
		t.Error("a third connection was accepted")
	case <-time.After(20 * time.Millisecond):
	}
	first.Close()
	first.Close() // twice frees one slot
	third := <-accepted
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("Accept went on after Close")
	}
	second.Close()
	third.Close()
}

// callers is a listener to which connections come from where a test says.
type callers struct {
	net.Listener

	next chan net.Conn
}

func (c *callers) Accept() (net.Conn, error) {
	conn, ok := <-c.next
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

type from struct {
	net.Conn

	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// Threat T5: a stranger who takes all the connections he gets leaves room for others.
// An IPv6 host has a whole network of addresses.
func TestThreatT05ConnectionsOfOneAddressAreBounded(t *testing.T) {
	const limit, ofOne = 8, 2
	c := &callers{next: make(chan net.Conn, 1)}
	l := bound(c, limit, ofOne)
	call := func(address string) (there net.Conn) {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		c.next <- from{far, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))}
		return near
	}
	accept := func() net.Conn {
		t.Helper()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for _, stranger := range [][]string{
		{"192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.1]:3"},
		{"[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3:4]:1"},
	} {
		call(stranger[0])
		first := accept()
		call(stranger[1])
		accept()
		refused := call(stranger[2])
		ended := make(chan error, 1)
		go func() {
			_, err := refused.Read(make([]byte, 1))
			ended <- err
			call("198.51.100.1:1") // Accept goes on to who comes next
		}()
		if other := accept(); other.RemoteAddr().String() != "198.51.100.1:1" {
			t.Errorf("after %v: %s was let in", stranger[:2], other.RemoteAddr())
		} else {
			other.Close()
		}
		if err := <-ended; err == nil {
			t.Errorf("%s was not closed", stranger[2])
		}
		first.Close()
		call(stranger[2])
		if again := accept(); !strings.Contains(stranger[2], again.RemoteAddr().(*net.TCPAddr).IP.String()) {
			t.Errorf("after one of %v had gone: got %s", stranger, again.RemoteAddr())
		}
	}
}
