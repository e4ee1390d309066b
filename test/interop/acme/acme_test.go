//go:build interop

package acme

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/kith-id/kith/test/lab"
)

const (
	name   = "bundles.acme.example"
	issuer = "oidc.acme.example"
	// life of a certificate, in seconds: one is renewed when a third is left.
	life = 36
	// patience is for one order at the CA, and for a renewal.
	patience = 3 * time.Minute
)

// authority is an ACME CA that finds every name at 127.0.0.1 and proves control
// of it at one port.
type authority struct {
	*lab.Process
	directory, roots string // URLs
	file             string // the CA of the directory's own certificate
}

func startAuthority(t *testing.T, h *lab.Host, tlsPort int) *authority {
	t.Helper()
	build := exec.Command("../../../scripts/pebble")
	build.Stderr = os.Stderr
	bin, err := build.Output()
	if err != nil {
		t.Fatalf("build the CA: %v", err)
	}
	cert, key := selfSigned(t)
	port, manage := lab.Port(t), lab.Port(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", port), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", manage),
		"certificate": h.WriteFile("ca/cert.pem", cert), "privateKey": h.WriteFile("ca/key.pem", key),
		"httpPort": lab.Port(t), "tlsPort": tlsPort, "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": life}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.Setenv("PEBBLE_VA_NOSLEEP=1")
	a := &authority{
		Process:   h.Start(strings.TrimSpace(string(bin)), "-config", h.WriteFile("ca/config.json", string(config)), "-dnsserver", startNames(t)),
		directory: fmt.Sprintf("https://127.0.0.1:%d/dir", port), roots: fmt.Sprintf("https://127.0.0.1:%d/roots/0", manage),
		file: filepath.Join(h.Dir, "ca", "cert.pem"),
	}
	h.WaitPort(port)
	h.WaitPort(manage)
	return a
}

// selfSigned is a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "acme directory"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, bytes []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", secret)
}

// startNames is a name server to which every name is 127.0.0.1. The CA asks by TCP.
func startNames(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lab.Port(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer conn.Close()
				for serveName(conn) == nil {
				}
			}()
		}
	}()
	return listener.Addr().String()
}

// serveName answers one question; each message is preceded by its length.
func serveName(conn net.Conn) error {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	packet := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, packet); err != nil {
		return err
	}
	answer, err := answerTo(packet)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

func answerTo(packet []byte) ([]byte, error) {
	var question dnsmessage.Message
	if err := question.Unpack(packet); err != nil || len(question.Questions) != 1 {
		return nil, errors.Join(err, errors.New("one question is answered"))
	}
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: question.ID, Response: true, Authoritative: true, RecursionDesired: question.RecursionDesired},
		Questions: question.Questions,
	}
	if q := question.Questions[0]; q.Type == dnsmessage.TypeA {
		answer.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return answer.Pack()
}

// endpoint asks for what a server publishes as a stranger with the CA's root does.
type endpoint struct {
	*lab.Host
	name string
	port int
}

func (e endpoint) bundle() error { return e.holds("/", `"use":"x509-svid"`) }

// holds says nil if what is at a path is served to who knows the CA, and has a text.
func (e endpoint) holds(path, want string) error {
	r := e.Try("curl", "-sS", "-m", "50", "--cacert", "root.pem", "--resolve", fmt.Sprintf("%s:%d:127.0.0.1", e.name, e.port), fmt.Sprintf("https://%s:%d%s", e.name, e.port, path))
	if r.Code != 0 || !strings.Contains(r.Stdout, want) {
		return fmt.Errorf("exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	return nil
}

// serial is the certificate that is shown now.
func (e endpoint) serial() string {
	return strings.TrimSpace(e.Try("bash", "-c", fmt.Sprintf(
		"openssl s_client -connect 127.0.0.1:%d -servername %s </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null", e.port, e.name)).Stdout)
}

// TestCertificateOfTheWebFromAnACMEAuthority shows a bundle endpoint of profile
// https_web (rules 116 and 121) whose certificate the CA gives for proof of control, and
// renews; a server that starts again goes on with the one it has.
func TestCertificateOfTheWebFromAnACMEAuthority(t *testing.T) {
	h := lab.NewHost(t)
	e := endpoint{h, name, lab.Port(t)}
	ca := startAuthority(t, h, e.port)
	h.WriteConfig(fmt.Sprintf(`trust_domain: acme.example
server:
  listen: "127.0.0.1:%d"
  metrics: ""
  federation:
    web:
      listen: "127.0.0.1:%d"
      acme: {domain: %s, directory: "%s", ca_file: "%s", accept_terms: true}
`, lab.Port(t), e.port, name, ca.directory, ca.file))
	server := h.Start("kith", "server")
	h.WaitReady(server)
	h.WriteFile("root.pem", h.Do("curl", "-sS", "--cacert", ca.file, ca.roots))

	lab.Eventually(t, patience, "the bundle, with a certificate of the CA", e.bundle)
	first := e.serial()
	if info, err := os.Stat(filepath.Join(h.Dir, "state", "acme", name)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("where the certificate and its key are kept: %v, %v, want mode 0600", info, err)
	}
	lab.Eventually(t, patience, "the next certificate", func() error {
		if now := e.serial(); now == first || now == "" {
			return fmt.Errorf("still %q", now)
		}
		return e.bundle()
	})

	last, since := e.serial(), time.Now()
	server.Stop()
	server = h.Start("kith", "server")
	h.WaitReady(server)
	lab.Eventually(t, patience, "the bundle after a new start", e.bundle)
	if now := e.serial(); now != last && time.Since(since) < life*time.Second/2 { // else the next one was due
		t.Errorf("a server that starts again shows %s, want %s, which it had", now, last)
	}

	ca.Stop()
	lab.Eventually(t, patience, "the log tells that a certificate is not renewed", func() error {
		_ = e.serial()
		if !strings.Contains(server.Output(), "certificate not renewed by ACME") {
			return errors.New("it does not")
		}
		return nil
	})
}

// TestIssuerWithACertificateFromAnACMEAuthority shows the OIDC endpoint with a
// certificate of the CA: discovery document and keys, to clouds that know the CA and no
// other; under no other name; and the next certificate when that is due.
func TestIssuerWithACertificateFromAnACMEAuthority(t *testing.T) {
	h := lab.NewHost(t)
	e := endpoint{h, issuer, lab.Port(t)}
	ca := startAuthority(t, h, e.port)
	h.WriteConfig(fmt.Sprintf(`trust_domain: acme.example
server:
  listen: "127.0.0.1:%d"
  metrics: ""
  oidc:
    issuer: "https://%s"
    web:
      listen: "127.0.0.1:%d"
      acme: {domain: %[2]s, directory: "%[4]s", ca_file: "%[5]s", accept_terms: true}
`, lab.Port(t), issuer, e.port, ca.directory, ca.file))
	h.WaitReady(h.Start("kith", "server"))
	h.WriteFile("root.pem", h.Do("curl", "-sS", "--cacert", ca.file, ca.roots))

	lab.Eventually(t, patience, "the discovery document, with a certificate of the CA", func() error {
		return e.holds("/.well-known/openid-configuration", `"issuer":"https://`+issuer+`"`)
	})
	lab.Eventually(t, patience, "the keys", func() error { return e.holds("/.well-known/jwks.json", `"kty":"EC"`) })
	first := e.serial()
	if info, err := os.Stat(filepath.Join(h.Dir, "state", "acme", issuer)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("where the certificate and its key are kept: %v, %v, want mode 0600", info, err)
	}
	other := endpoint{h, "elsewhere.acme.example", e.port}
	if err := other.holds("/.well-known/jwks.json", ""); err == nil || other.serial() != "" {
		t.Errorf("a certificate for a name that is not configured: %v, %s", err, other.serial())
	}
	lab.Eventually(t, patience, "the next certificate", func() error {
		if now := e.serial(); now == first || now == "" {
			return fmt.Errorf("still %q", now)
		}
		return e.holds("/.well-known/jwks.json", `"kty":"EC"`)
	})
}
