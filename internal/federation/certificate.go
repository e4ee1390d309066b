package federation

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"github.com/kith-id/kith/internal/fault"
)

// lookEvery is how often files are looked at, at most.
const lookEvery = time.Second

// Files is a certificate in files, as a web server has one. Replaced files are
// used from the next handshake on; if they cannot be read, the former ones are.
type Files struct {
	cert, key string
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex
	looked  time.Time // guarded by mu, as is all below
	pem     [2][]byte
	current *tls.Certificate
}

// OpenFiles reads the files at once, so that what is wrong shows at the start.
func OpenFiles(cert, key string, now func() time.Time, log *slog.Logger) (*Files, error) {
	f := &Files{cert: cert, key: key, now: now, log: log}
	if err := f.load(); err != nil {
		return nil, err
	}
	f.looked = now()
	return f, nil
}

// Certificate is the certificate of now, for tls.Config.GetCertificate.
func (f *Files) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked).Abs() >= lookEvery {
		f.looked = now
		if err := f.load(); err != nil {
			f.log.Warn("new certificate not usable; the former one is kept", "error", err)
		}
	}
	return f.current, nil
}

// load reads the files and puts a new pair in use.
func (f *Files) load() error {
	var pem [2][]byte
	for i, path := range []string{f.cert, f.key} {
		var err error
		if pem[i], err = readSmall(path); err != nil {
			return err
		}
	}
	if f.current != nil && bytes.Equal(pem[0], f.pem[0]) && bytes.Equal(pem[1], f.pem[1]) {
		return nil
	}
	f.pem = pem // looked at once, also if it is unusable
	pair, err := tls.X509KeyPair(pem[0], pem[1])
	if err != nil {
		return fault.Invalidf("certificate %s with key %s: %w", f.cert, f.key, err)
	}
	if f.current != nil {
		f.log.Info("new certificate in use", "file", f.cert, "not_after", pair.Leaf.NotAfter)
	}
	f.current = &pair
	return nil
}

// maxFile bounds certificates, keys and lists of CAs.
const maxFile = 1 << 20

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.Wrap(fault.NotFound, err)
	}
	if info.Size() > maxFile {
		return nil, fault.Invalidf("%s has %d bytes, at most %d are read", path, info.Size(), maxFile)
	}
	return os.ReadFile(path)
}

// ReadRoots reads the CAs in a PEM file, for endpoints of profile https_web.
// This host's own count as well.
func ReadRoots(path string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("this host's CAs: %w", err)
	}
	text, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(text) {
		return nil, fault.Invalidf("%s holds no certificate in PEM", path)
	}
	return pool, nil
}

// ACMEConfig is how a certificate is obtained from an ACME CA.
type ACMEConfig struct {
	Domain    string // the only name asked for
	Email     string // whom the CA writes to; may be empty
	Directory string // URL; empty: Let's Encrypt
	Cache     string // directory of account and certificate
	Roots     *x509.CertPool
	Now       func() time.Time
	Log       *slog.Logger
}

// failureSaid is how long the log is silent about ACME after it has told of a
// failure: handshakes come as often as they like.
const failureSaid = time.Minute

// ACME obtains and renews a certificate by TLS-ALPN-01, which needs nothing but
// the listener itself: the CA connects to port 443 of the domain. It is renewed
// when a third of its life is left, 30 days at most. The operator has agreed to the
// CA's terms in the configuration.
func ACME(cfg ACMEConfig) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	directory := cfg.Directory
	if directory == "" {
		directory = acme.LetsEncryptURL
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots},
		TLSHandshakeTimeout: headerLimit,
	}
	manager := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(cfg.Cache),
		HostPolicy: autocert.HostWhitelist(cfg.Domain),
		Email:      cfg.Email,
		Client: &acme.Client{
			DirectoryURL: directory, UserAgent: "kith",
			HTTPClient: &http.Client{Transport: transport, Timeout: time.Minute},
		},
	}
	w := &watched{cfg: cfg, directory: directory, get: manager.GetCertificate}
	return w.certificate
}

// watched tells the log what autocert keeps to itself: that there is no
// certificate, and that the one in use is not renewed.
type watched struct {
	cfg       ACMEConfig
	directory string
	get       func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	mu   sync.Mutex
	said time.Time // guarded by mu
}

func (w *watched) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := w.get(hello)
	switch {
	case hello.ServerName != w.cfg.Domain || errors.Is(err, context.Canceled): // strangers ask for what they like, and go
	case err != nil:
		w.say("certificate not obtained by ACME", "error", err)
	case overdue(cert.Leaf, w.cfg.Now()):
		w.say("certificate not renewed by ACME", "not_after", cert.Leaf.NotAfter)
	}
	return cert, err
}

// overdue reports whether a certificate has less than a sixth of its life left, or
// 15 days: half of what is left when it is renewed.
func overdue(leaf *x509.Certificate, now time.Time) bool {
	return leaf != nil && now.After(leaf.NotAfter.Add(-min(leaf.NotAfter.Sub(leaf.NotBefore)/6, 15*24*time.Hour)))
}

func (w *watched) say(event string, fact ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.cfg.Now(); now.Sub(w.said).Abs() >= failureSaid {
		w.said = now
		w.cfg.Log.Warn(event, append(fact, "domain", w.cfg.Domain, "directory", w.directory)...)
	}
}

// ACMEProtocol is what a listener whose certificate comes by ACME speaks as well.
const ACMEProtocol = acme.ALPNProto
