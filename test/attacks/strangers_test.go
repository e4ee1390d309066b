//go:build attacks

package attacks

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// forge makes a certificate for a key, signed by itself or by another.
func forge(t *testing.T, change func(*x509.Certificate), issuer *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject: pkix.Name{CommonName: "web"}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "dev.kith.local", Path: "/dev/web"}},
	}
	change(template)
	parent, signer := template, crypto.Signer(key)
	var above [][]byte
	if issuer != nil {
		parent, signer, above = issuer.Leaf, issuer.PrivateKey.(crypto.Signer), issuer.Certificate
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, above...), PrivateKey: key, Leaf: leaf}
}

// knock shakes hands and says a lawful request; it returns what came back. With
// TLS 1.3 a refused client hears of it when it reads.
func knock(address string, config *tls.Config) (string, error) {
	config.InsecureSkipVerify = true
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: lab.Soon}, "tcp", address, config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(patience())
	if _, err := io.WriteString(conn, "GET /ok/stranger HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 4096))
	return string(answer), err
}

// Attacks 20, 25 and 26, T29: no certificate but one of the trust domain opens
// the proxy, nor the server's node API.
func TestAttack20And25StrangersAtTheDoor(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET /ok/{**}")
	s.h.Kith("allow", "any", "GET /ok/{**}", "on", "orders")
	other := lab.NewHost(t)
	other.Dev("--trust-domain", "dev.kith.local.evil")
	twin := lab.NewHost(t)
	twin.Dev()
	ca := forge(t, func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "dev.kith.local"}}
	}, nil)
	own := s.svid
	for name, certs := range map[string][]tls.Certificate{
		"no certificate":                    nil,
		"self-signed":                       {forge(t, func(*x509.Certificate) {}, nil)},
		"an authority of its own":           {forge(t, func(*x509.Certificate) {}, &ca)},
		"an authority as the leaf":          {ca},
		"signed by a leaf":                  {forge(t, func(*x509.Certificate) {}, &own)},
		"SVID of another trust domain":      {getSVID(t, other, "web")},
		"SVID of a twin of the same name":   {getSVID(t, twin, "web")},
		"two identities":                    {forge(t, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, &own)},
		"two thousand names":                {forge(t, func(c *x509.Certificate) { c.DNSNames = strings.Fields(strings.Repeat("a.example ", 2000)) }, &own)},
		"a chain of ten and more":           {longChain(own, 12)},
		"another's certificate, no key":     {{Certificate: own.Certificate, PrivateKey: forge(t, func(*x509.Certificate) {}, nil).PrivateKey}},
		"expired":                           {forge(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, &own)},
		"NUL in the name of the identity":   {forge(t, func(c *x509.Certificate) { c.URIs[0].Path = "/dev/web\x00/x" }, &own)},
		"the right chain under another key": {{Certificate: append(forge(t, func(*x509.Certificate) {}, nil).Certificate, own.Certificate...), PrivateKey: ca.PrivateKey}},
	} {
		if answer, err := knock(s.addr, &tls.Config{Certificates: certs, NextProtos: []string{"http/1.1"}}); err == nil && answer != "" {
			t.Errorf("%s: got %q", name, answer)
		}
	}
	if answer, err := knock(s.addr, &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"}, MaxVersion: tls.VersionTLS12}); err == nil {
		t.Errorf("TLS 1.2: got %q", answer)
	}
	for _, r := range b.seen() {
		t.Errorf("the application saw %s as %s", r.Target, r.XFCC)
	}
	if answer, err := knock(s.addr, &tls.Config{Certificates: []tls.Certificate{own}, NextProtos: []string{"http/1.1"}}); err != nil || !strings.Contains(answer, "saw /ok/stranger") {
		t.Errorf("a lawful caller: %q, %v", answer, err)
	}
}

func longChain(own tls.Certificate, n int) tls.Certificate {
	long := tls.Certificate{Certificate: own.Certificate, PrivateKey: own.PrivateKey}
	for len(long.Certificate) < n {
		long.Certificate = append(long.Certificate[:len(long.Certificate):len(long.Certificate)], own.Certificate[len(own.Certificate)-1])
	}
	return long
}

// T23: there is no ticket to come back with, so that every connection is
// verified anew.
func TestThreatT23NoResumption(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET /ok/{**}")
	cache := tls.NewLRUClientSessionCache(4)
	config := func() *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, ServerName: "orders", Certificates: []tls.Certificate{s.svid}, NextProtos: []string{"http/1.1"}, ClientSessionCache: cache}
	}
	for i := range 3 {
		conn, err := tls.Dial("tcp", s.addr, config())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(patience())
		if _, err := io.WriteString(conn, "GET /ok/a HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Fatal(err)
		}
		if conn.ConnectionState().DidResume {
			t.Errorf("connection %d was resumed", i)
		}
		conn.Close()
	}
	if session, ok := cache.Get("orders"); ok {
		t.Errorf("there is a ticket: %v", session)
	}
}

// T24: who sits between a joining node and its server, with any certificate, does
// not get the token.
func TestThreatT24ManInTheMiddleOfAJoin(t *testing.T) {
	d := newDomain(t)
	line := d.addNode(t, "vm-2")
	address, rest, _ := strings.Cut(line[0], "/")
	token := rest[strings.IndexByte(rest, '/')+1:]
	evil := lab.NewHost(t) // of the same name, with a root of its own
	port := lab.Port(t)
	evil.WriteConfig(fmt.Sprintf("trust_domain: acme.example\nserver: {listen: \"127.0.0.1:%d\", address: \"127.0.0.1:%d\", metrics: \"127.0.0.1:%d\"}\nlog: {level: debug}\n", port, port, lab.Port(t)))
	server := evil.Start("kith", "server")
	evil.WaitReady(server)

	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{forge(t, func(c *x509.Certificate) { c.URIs[0].Host, c.URIs[0].Path = "acme.example", "/kith/server/s1" }, nil)}, NextProtos: []string{"h2"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var heard []string // owned by the goroutine until it has ended
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			text := make([]byte, 4096)
			_ = conn.SetDeadline(patience())
			n, _ := conn.Read(text)
			heard = append(heard, string(text[:n]))
			conn.Close()
		}
	})
	for what, at := range map[string]string{"another server": fmt.Sprintf("127.0.0.1:%d", port), "a forged certificate": l.Addr().String()} {
		mustFail(t, lab.NewHost(t), "a join at "+what, "kith", "join", at+"/"+rest)
	}
	l.Close()
	listening.Wait()
	for _, text := range heard {
		if len(text) > 0 {
			t.Errorf("the man in the middle heard %d bytes", len(text))
		}
	}
	if strings.Contains(server.Output(), token) || strings.Contains(server.Output(), "node refused") {
		t.Errorf("the other server was spoken to: %s", server.Output())
	}
	lab.NewHost(t).Kith("join", address+"/"+rest) // the token is still good
}

// T40: what is put into a command line is one word, whatever names are given.
func TestThreatT40NamesAreNoCommands(t *testing.T) {
	d := newDomain(t)
	for _, name := range []string{"a b", "a;id", "$(id)", "`id`", "a\nb", "a\r\nkith join x", "a'b", "a\"b", "-o", "--class", "../x", "a/b", "a%2fb", "\x1b[2J", "ä", strings.Repeat("a", 300), ""} {
		for _, args := range [][]string{{"nodes", "add", "--class", "vms", "--", name}, {"nodes", "add", "x", "--class=" + name}, {"allow", "web", "GET /", "on", "orders", "--name=" + name}} {
			if name == "" && args[2] != "--class" {
				continue // not given: the default is taken
			}
			out := mustFail(t, d.h, strings.Join(args, " "), "kith", args...)
			if strings.Contains(out, "kith join") && strings.Contains(out, "sha256-") || strings.ContainsAny(out, "\x1b\r") {
				t.Errorf("%q: %q", args, out)
			}
		}
	}
	line := d.addNode(t, "vm-3")
	if len(line) != 1 || strings.Trim(line[0], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/") != "" {
		t.Errorf("the join line needs quotes: %q", line)
	}
	for _, word := range []string{line[0] + "\nx", line[0] + " x", line[0] + "/x", line[0] + "%00", "'" + line[0] + "'", line[0][:len(line[0])-1], strings.ToUpper(line[0]), "-h" + line[0]} {
		mustFail(t, lab.NewHost(t), fmt.Sprintf("kith join %q", word), "kith", "join", word)
	}
}

// Rule 75, T7: a browser, or a program tricked into a request, gets nothing out
// of the Workload API.
func TestThreatT07RequestsWithoutTheHeader(t *testing.T) {
	h := lab.NewHost(t)
	h.Dev()
	h.Kith("get", "svid", "--as", "web", "--dir", filepath.Join(h.Dir, "before"))
	const method = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID"
	for _, args := range [][]string{
		{"--http1.1", "http://localhost/"},
		{"--http1.1", "-X", "POST", method},
		{"--http2-prior-knowledge", "-X", "POST", method},
		{"--http2-prior-knowledge", "-X", "POST", "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@/dev/null", method},
		{"--http2-prior-knowledge", "-X", "POST", "-H", "content-type: application/grpc", "-H", "workload.spiffe.io: false", "--data-binary", "@/dev/null", method},
		{"--http2-prior-knowledge", "-X", "POST", "-H", "content-type: application/grpc", "-H", "workload.spiffe.io: true", "-H", "x: " + strings.Repeat("y", 70<<10), "--data-binary", "@/dev/null", method},
	} {
		r := h.Try("curl", append([]string{"-s", "-m", "5", "--output", "-", "--unix-socket", h.AgentSocket()}, args...)...)
		if strings.Contains(r.Stdout, "spiffe://") || strings.Contains(r.Stdout, "dev.kith.local") {
			t.Errorf("curl %q got %q", args, r.Stdout)
		}
	}
}
