package federation

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// write puts a certificate and its key into files, as a tool of the web does.
func write(t *testing.T, cert *tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesAreReadAgainWhenTheyChange(t *testing.T) {
	ca, dir := newAuthority(t, "web"), t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	var log bytes.Buffer
	now := time.Now()
	open := func() (*Files, error) {
		return OpenFiles(certFile, keyFile, func() time.Time { return now }, slog.New(slog.NewTextHandler(&log, nil)))
	}
	if _, err := open(); !fault.Is(err, fault.NotFound) {
		t.Errorf("no files: got %v, want not found", err)
	}
	first, second := ca.leaf("", nil), ca.leaf("", nil)
	write(t, first, certFile, keyFile)
	f, err := open()
	if err != nil {
		t.Fatal(err)
	}
	shows := func(want *tls.Certificate, when string) {
		t.Helper()
		now = now.Add(2 * time.Second)
		got, err := f.Certificate(nil)
		if err != nil || !bytes.Equal(got.Certificate[0], want.Certificate[0]) {
			t.Errorf("%s: shows another certificate (%v)", when, err)
		}
	}
	shows(first, "at first")
	write(t, second, certFile, filepath.Join(dir, "elsewhere")) // the key is still the first one's
	shows(first, "half way through a replacement")
	if !strings.Contains(log.String(), "the former one is kept") {
		t.Errorf("nothing was said: %s", log.String())
	}
	write(t, second, certFile, keyFile)
	shows(second, "after the replacement")
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	shows(second, "without a file")
	if _, err := open(); err == nil {
		t.Error("a server started without its certificate")
	}
	if err := os.WriteFile(certFile, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(); !fault.Is(err, fault.Invalid) {
		t.Errorf("a huge file: got %v, want invalid", err)
	}
}

func TestReadRoots(t *testing.T) {
	ca, path := newAuthority(t, "web"), filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	pool, err := ReadRoots(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ca.leaf("", nil).Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "bundles.test"}); err != nil {
		t.Errorf("what the CA signed: %v", err)
	}
	if err := os.WriteFile(path, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRoots(path); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v, want invalid", err)
	}
}

// What autocert keeps to itself is told, once a minute, of the own name alone.
func TestFailuresOfACMEAreTold(t *testing.T) {
	var log bytes.Buffer
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: now, NotAfter: now.Add(90 * 24 * time.Hour)}
	var failure error
	w := &watched{
		cfg: ACMEConfig{Domain: "bundles.acme.example", Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil))},
		get: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &tls.Certificate{Leaf: leaf}, failure },
	}
	ask := func(name string) {
		_, err := w.certificate(&tls.ClientHelloInfo{ServerName: name})
		if !errors.Is(err, failure) {
			t.Fatalf("got %v, want %v", err, failure)
		}
	}
	said := func(event string) int { return strings.Count(log.String(), event) }
	ask("bundles.acme.example")
	now = now.Add(74 * 24 * time.Hour) // 16 days are left
	ask("bundles.acme.example")
	if log.Len() > 0 {
		t.Errorf("nothing is wrong, and the log says %s", log.String())
	}
	now = now.Add(2 * 24 * time.Hour)
	ask("bundles.acme.example")
	ask("bundles.acme.example")
	if said("not renewed") != 1 {
		t.Errorf("told %d times that it is not renewed, want once: %s", said("not renewed"), log.String())
	}
	now, failure = now.Add(failureSaid), errors.New("no such CA")
	ask("elsewhere.example")
	if said("not obtained") != 0 {
		t.Errorf("another name is told of: %s", log.String())
	}
	ask("bundles.acme.example")
	if said("not obtained") != 1 || said("no such CA") != 1 {
		t.Errorf("a failure is not told of: %s", log.String())
	}
}
