package spiffe_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// source is a Source whose values a test can swap.
type source struct {
	mu      sync.Mutex
	svid    *spiffe.X509SVID
	bundles spiffe.BundleMap
}

func (s *source) X509SVID() (*spiffe.X509SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.svid == nil {
		return nil, errors.New("no identity yet")
	}
	return s.svid, nil
}

func (s *source) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bundles.Bundle(td)
}

func (s *source) set(svid *spiffe.X509SVID, bundles spiffe.BundleMap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.svid, s.bundles = svid, bundles
}

func (a *authority) source(path string, above ...*x509.Certificate) *source {
	a.t.Helper()
	return &source{svid: a.svid(path, above...), bundles: a.bundles()}
}

// outcome of one connection over which one byte went each way.
type outcome struct {
	client, server       tls.ConnectionState
	clientErr, serverErr error
}

// connect runs both sides over loopback TCP: a refusal of the client's
// certificate reaches a TLS 1.3 client only when it reads.
func connect(t *testing.T, server, client *tls.Config) outcome {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var o outcome
	var wait sync.WaitGroup
	wait.Go(func() {
		raw, err := listener.Accept()
		if err != nil {
			o.serverErr = err
			return
		}
		o.server, o.serverErr = exchange(tls.Server(raw, server))
	})
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	o.client, o.clientErr = exchange(tls.Client(raw, client))
	wait.Wait()
	return o
}

func exchange(conn *tls.Conn) (tls.ConnectionState, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return tls.ConnectionState{}, err
	}
	if err := conn.Handshake(); err != nil {
		return conn.ConnectionState(), err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return conn.ConnectionState(), err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState(), err
}

func anyID(spiffe.ID) error { return nil }

func only(want spiffe.ID) func(spiffe.ID) error {
	return func(got spiffe.ID) error {
		if got != want {
			return errors.New("it is " + got.String())
		}
		return nil
	}
}

func (o outcome) ok(t *testing.T) {
	t.Helper()
	if o.clientErr != nil || o.serverErr != nil {
		t.Fatalf("client: %v; server: %v", o.clientErr, o.serverErr)
	}
}

func (o outcome) fails(t *testing.T, why string) {
	t.Helper()
	if o.clientErr == nil || o.serverErr == nil {
		t.Fatalf("client: %v; server: %v; want both to fail", o.clientErr, o.serverErr)
	}
	if !strings.Contains(o.clientErr.Error()+"\n"+o.serverErr.Error(), why) {
		t.Errorf("client: %v; server: %v; want %q", o.clientErr, o.serverErr, why)
	}
}

func TestMutualTLS(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child()
	server := &source{svid: issuing.svid("/orders", issuing.cert), bundles: root.bundles()}
	client := &source{svid: issuing.svid("/web", issuing.cert), bundles: root.bundles()}
	o := connect(t,
		spiffe.ServerTLS(server, now, only(mustID(t, "spiffe://acme.example/web"))),
		spiffe.ClientTLS(client, now, only(mustID(t, "spiffe://acme.example/orders"))))
	o.ok(t)
	if id, err := spiffe.PeerID(o.server); err != nil || id.Path() != "/web" {
		t.Errorf("server sees %s, %v", id, err)
	}
	if id, err := spiffe.PeerID(o.client); err != nil || id.Path() != "/orders" {
		t.Errorf("client sees %s, %v", id, err)
	}
	if o.client.Version != tls.VersionTLS13 || o.client.CurveID != tls.X25519MLKEM768 {
		t.Errorf("version %x, key exchange %s", o.client.Version, o.client.CurveID)
	}
}

func TestKeyExchangeFallsBack(t *testing.T) {
	root := newRoot(t, "acme.example")
	for _, curve := range []tls.CurveID{tls.X25519, tls.CurveP256} {
		client := spiffe.ClientTLS(root.source("/web"), now, anyID)
		client.CurvePreferences = []tls.CurveID{curve}
		o := connect(t, spiffe.ServerTLS(root.source("/orders"), now, nil), client)
		o.ok(t)
		if o.server.CurveID != curve {
			t.Errorf("key exchange %s, want %s", o.server.CurveID, curve)
		}
	}
	client := spiffe.ClientTLS(root.source("/web"), now, anyID)
	client.CurvePreferences = []tls.CurveID{tls.CurveP521}
	connect(t, spiffe.ServerTLS(root.source("/orders"), now, nil), client).fails(t, "handshake failure")
}

func TestTLS12IsRefused(t *testing.T) {
	root := newRoot(t, "acme.example")
	old := &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}
	connect(t, spiffe.ServerTLS(root.source("/orders"), now, nil), old).fails(t, "protocol version")
	server := &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*root.svid("/orders").TLSCertificate()}}
	connect(t, server, spiffe.ClientTLS(root.source("/web"), now, anyID)).fails(t, "protocol version")
}

func TestClientWithoutCertificate(t *testing.T) {
	root := newRoot(t, "acme.example")
	bare := &tls.Config{InsecureSkipVerify: true}
	o := connect(t, spiffe.ServerTLS(root.source("/orders"), now, nil), bare)
	o.fails(t, "remote error: tls: certificate required") // the text of alert 116
}

func TestServerTLSOptional(t *testing.T) {
	root := newRoot(t, "acme.example")
	server := spiffe.ServerTLSOptional(root.source("/kith/server/a"), now)
	o := connect(t, server, &tls.Config{InsecureSkipVerify: true})
	o.ok(t)
	if id, err := spiffe.PeerID(o.server); err == nil {
		t.Errorf("a stranger is %s", id)
	}
	o = connect(t, server, spiffe.ClientTLS(root.source("/kith/node/a"), now, anyID))
	o.ok(t)
	if id, err := spiffe.PeerID(o.server); err != nil || id.Path() != "/kith/node/a" {
		t.Errorf("a node is %s, %v", id, err)
	}
	impostor := newRoot(t, "acme.example").source("/kith/node/a")
	impostor.bundles = root.bundles()
	connect(t, server, spiffe.ClientTLS(impostor, now, anyID)).fails(t, "bad certificate")
}

func TestPeersAreJudged(t *testing.T) {
	root, foreign := newRoot(t, "acme.example"), newRoot(t, "evil.example")
	server := func(accept func(spiffe.ID) error) *tls.Config {
		return spiffe.ServerTLS(root.source("/orders"), now, accept)
	}
	stranger := foreign.source("/web")
	stranger.bundles = root.bundles()
	connect(t, server(nil), spiffe.ClientTLS(stranger, now, anyID)).fails(t, "no bundle for trust domain evil.example")
	no := func(spiffe.ID) error { return errors.New("not you") }
	connect(t, server(no), spiffe.ClientTLS(root.source("/web"), now, anyID)).fails(t, "not you")
	connect(t, server(nil), spiffe.ClientTLS(root.source("/web"), now, no)).fails(t, "not you")
	connect(t, server(nil), spiffe.ClientTLS(root.source("/web"), now, nil)).fails(t, "none is expected")
	late := func() time.Time { return epoch.Add(2 * time.Hour) }
	connect(t, server(nil), spiffe.ClientTLS(root.source("/web"), late, anyID)).fails(t, "expired")
}

func TestNoIdentityNoHandshake(t *testing.T) {
	root := newRoot(t, "acme.example")
	empty := &source{bundles: root.bundles()}
	connect(t, spiffe.ServerTLS(empty, now, nil), spiffe.ClientTLS(root.source("/web"), now, anyID)).fails(t, "no identity yet")
	connect(t, spiffe.ServerTLS(root.source("/orders"), now, nil), spiffe.ClientTLS(empty, now, anyID)).fails(t, "no identity yet")
	hollow := &source{svid: &spiffe.X509SVID{}, bundles: root.bundles()}
	connect(t, spiffe.ServerTLS(hollow, now, nil), spiffe.ClientTLS(root.source("/web"), now, anyID)).fails(t, "there is none")
}

// T23: neither a ticket nor anything else skips the current bundle.
func TestRotationAndNoResumption(t *testing.T) {
	root, next := newRoot(t, "acme.example"), newRoot(t, "acme.example")
	source := root.source("/orders")
	server := spiffe.ServerTLS(source, now, nil)
	client := spiffe.ClientTLS(root.source("/web"), now, anyID)
	client.SessionTicketsDisabled = false
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	client.ServerName = "orders"
	for range 2 {
		o := connect(t, server, client)
		o.ok(t)
		if o.client.DidResume || o.server.DidResume {
			t.Error("session was resumed")
		}
	}
	// From the next handshake on the server has the next root's SVID and trusts it alone.
	source.set(next.svid("/orders"), next.bundles())
	connect(t, server, client).fails(t, "bad certificate")
	o := connect(t, server, spiffe.ClientTLS(next.source("/web"), now, anyID))
	o.ok(t)
	// An emptied bundle (rule 68) refuses whom it had trusted.
	source.set(next.svid("/orders"), spiffe.BundleMap{next.td: spiffe.NewBundle(next.td, 2, 0)})
	connect(t, server, spiffe.ClientTLS(next.source("/web"), now, anyID)).fails(t, "is empty")
}

func TestNoAcceptableAuthoritiesAreSent(t *testing.T) {
	root := newRoot(t, "acme.example")
	client := spiffe.ClientTLS(root.source("/web"), now, anyID)
	give := client.GetClientCertificate
	client.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(info.AcceptableCAs) != 0 {
			return nil, errors.New("server sent acceptable authorities")
		}
		return give(info)
	}
	connect(t, spiffe.ServerTLS(root.source("/orders"), now, nil), client).ok(t)
}

func TestPinnedClientTLS(t *testing.T) {
	root := newRoot(t, "acme.example")
	issuing := root.child()
	id := mustID(t, "spiffe://acme.example/kith/server/a")
	server := func(above ...*x509.Certificate) *tls.Config {
		return spiffe.ServerTLSOptional(&source{svid: issuing.svid("/kith/server/a", above...), bundles: root.bundles()}, now)
	}
	pin := spiffe.PinOf(root.cert)
	o := connect(t, server(issuing.cert, root.cert), spiffe.PinnedClientTLS(pin, now, only(id)))
	o.ok(t)
	if got, err := spiffe.PeerID(o.client); err != nil || got != id {
		t.Errorf("server is %s, %v", got, err)
	}
	connect(t, server(issuing.cert), spiffe.PinnedClientTLS(pin, now, only(id))).fails(t, "did not send the pinned root")
	wrong := spiffe.PinOf(newRoot(t, "acme.example").cert)
	connect(t, server(issuing.cert, root.cert), spiffe.PinnedClientTLS(wrong, now, only(id))).fails(t, "did not send the pinned root")
	connect(t, server(issuing.cert, root.cert), spiffe.PinnedClientTLS(pin, now, only(mustID(t, "spiffe://acme.example/kith/server/b")))).fails(t, "it is spiffe://")
	connect(t, server(issuing.cert, root.cert), spiffe.PinnedClientTLS(pin, now, nil)).fails(t, "none is expected")

	// The true root beside a chain of somebody else's.
	evil := newRoot(t, "acme.example")
	mitm := &source{svid: evil.svid("/kith/server/a", evil.cert, root.cert), bundles: root.bundles()}
	connect(t, spiffe.ServerTLSOptional(mitm, now), spiffe.PinnedClientTLS(pin, now, only(id))).fails(t, "unknown authority")

	// The pinned key in a certificate the key has not signed.
	forged := sign(t, caTemplate(root.td, "root"), evil.cert, root.key.Public(), evil.key, nil)
	mitm = &source{svid: evil.svid("/kith/server/a", evil.cert, forged), bundles: root.bundles()}
	connect(t, spiffe.ServerTLSOptional(mitm, now), spiffe.PinnedClientTLS(pin, now, only(id))).fails(t, "did not send the pinned root")
}

func TestPinText(t *testing.T) {
	pin := spiffe.PinOf(newRoot(t, "acme.example").cert)
	again, err := spiffe.ParsePin(pin.String())
	if err != nil || again != pin {
		t.Errorf("ParsePin(%s) = %s, %v", pin, again, err)
	}
	text := pin.String()
	for _, bad := range []string{"", "sha256-", text[:len(text)-1], text + "0", strings.ToUpper(text), text[7:], "sha256-" + strings.Repeat("g", 64), strings.Replace(text, "sha256", "sha1", 1)} {
		if _, err := spiffe.ParsePin(bad); err == nil {
			t.Errorf("ParsePin(%q) accepted it", bad)
		}
	}
}

func TestPeerIDWithoutAPeer(t *testing.T) {
	if _, err := spiffe.PeerID(tls.ConnectionState{}); err == nil {
		t.Error("a connection before its handshake has a peer")
	}
	if _, err := spiffe.PeerID(tls.ConnectionState{HandshakeComplete: true}); err == nil {
		t.Error("a connection without certificates has a peer")
	}
}

func TestConfigsAreClosed(t *testing.T) {
	root := newRoot(t, "acme.example")
	for name, config := range map[string]*tls.Config{
		"server":   spiffe.ServerTLS(root.source("/a"), nil, nil),
		"optional": spiffe.ServerTLSOptional(root.source("/a"), nil),
		"client":   spiffe.ClientTLS(root.source("/a"), nil, anyID),
		"pinned":   spiffe.PinnedClientTLS(spiffe.Pin{}, nil, anyID),
	} {
		if config.MinVersion != tls.VersionTLS13 || !config.SessionTicketsDisabled || config.ClientCAs != nil || config.Time == nil || config.VerifyConnection == nil {
			t.Errorf("%s: %+v", name, config)
		}
		if config.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{root.cert}}) == nil {
			t.Errorf("%s: an authority is a peer", name)
		}
	}
	if !bytes.Equal(root.bundle().MarshalRoots(), root.cert.Raw) {
		t.Error("MarshalRoots is not the root")
	}
}
