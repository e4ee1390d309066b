package kith_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
	"github.com/kith-id/kith/spiffe"
)

// stranger is a workload of another trust domain, which trusts ours.
type stranger struct {
	svid  *spiffe.X509SVID
	trust *proxytest.CA
}

func (s stranger) X509SVID() (*spiffe.X509SVID, error) { return s.svid, nil }

func (s stranger) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	root, err := x509.ParseCertificate(s.trust.Roots())
	return spiffe.NewBundle(td, 0, 0, root), err == nil && td.String() == proxytest.Domain
}

func anyone(spiffe.ID) error { return nil }

// Rule 88, attack 24: a caller of another trust domain is known by that one's
// bundle and decided by rules that name it, never by those of the own; when the
// relationship ends, its connections are cut.
func TestFederatedCallerIsDecidedAndCut(t *testing.T) {
	t.Parallel()
	agent, theirs := proxytest.Start(t), proxytest.NewCA(t)
	_, addr := serveSDK(t, agent, "orders", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "hello") })
	agent.Service("web", "http")
	agent.Rules(proxytest.Allow("ours", "/dev/web", "orders", "GET /a"), proxytest.Allow("theirs", "spiffe://other.example/dev/web", "orders", "GET /b"))
	config := spiffe.ClientTLS(stranger{theirs.Issue("spiffe://other.example/dev/web"), agent.CA}, time.Now, anyone)
	dial := func() (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", addr, config)
		if err != nil {
			return nil, err
		}
		// TLS 1.3: only a read shows whether the server took the certificate.
		conn.SetReadDeadline(time.Now().Add(proxytest.Patience)) //nolint:errcheck // shows when it is read
		return conn, nil
	}
	get := func(conn *tls.Conn, path string) (string, error) {
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: orders\r\n\r\n"); err != nil {
			return "", err
		}
		head := make([]byte, 12)
		_, err := io.ReadFull(conn, head)
		return string(head), err
	}
	if conn, err := dial(); err == nil {
		if got, err := get(conn, "/b"); err == nil {
			t.Fatalf("before there is a bundle: got %q, want the connection refused", got)
		}
		conn.Close()
	}
	agent.Federate("other.example", theirs.Roots())
	var live *tls.Conn
	awaitTrue(t, func() bool {
		conn, err := dial()
		if err != nil {
			return false
		}
		got, err := get(conn, "/b")
		if err != nil {
			conn.Close()
			return false
		}
		if got != "HTTP/1.1 200" {
			t.Fatalf("a rule names the caller: got %q, want 200", got)
		}
		live = conn
		return true
	})
	defer live.Close()
	other, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if got, err := get(other, "/a"); got != "HTTP/1.1 403" {
		t.Errorf("a rule names the same path of the own trust domain: got %q %v, want 403", got, err)
	}
	agent.Federate("other.example", nil)
	if _, err := io.Copy(io.Discard, live); isTimeout(err) {
		t.Error("the relationship ended and the connection lives")
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// A service of another trust domain is called like any other, and its connections
// are cut when the relationship ends.
func TestFederatedServiceIsCalledAndCut(t *testing.T) {
	t.Parallel()
	agent, theirs := proxytest.Start(t), proxytest.NewCA(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", spiffe.ServerTLS(stranger{theirs.Issue("spiffe://other.example/billing"), agent.CA}, time.Now, nil))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		for ; err == nil; conn, err = l.Accept() {
			_, err := io.Copy(conn, conn)
			conn.Close()
			if err == nil {
				ended <- err
				return
			}
		}
	}()
	defer l.Close()
	agent.Replace(&pb.Service{Name: "billing", Identities: []string{"spiffe://other.example/billing"}, Protocol: "tcp", Endpoints: []string{l.Addr().String()}})
	agent.Service("web", "http")
	w := open(t, agent, kith.Config{As: "web"})
	if conn, err := w.Dial(within(t), "billing"); err == nil {
		conn.Close()
		t.Fatal("a service of an unknown trust domain was connected to")
	}
	agent.Federate("other.example", theirs.Roots())
	var conn *tls.Conn
	awaitTrue(t, func() bool {
		if conn, err = w.Dial(within(t), "billing"); err != nil {
			return false
		}
		_, err = io.WriteString(conn, "x")
		return err == nil
	})
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(proxytest.Patience)) //nolint:errcheck // shows when it is read
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	agent.Federate("other.example", nil)
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the relationship ended and the connection lives: %v", err)
	}
}
