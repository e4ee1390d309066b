package oidc_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/oidc"
	"github.com/kith-id/kith/internal/oidc/oidctest"
	"github.com/kith-id/kith/spiffe"
)

const (
	issuer  = "https://oidc.acme.example"
	subject = "spiffe://acme.example/vms/orders"
)

// signers are the keys of all scenes: making an RSA key takes a while.
type signers struct {
	ec *ecdsa.PrivateKey
	rs *rsa.PrivateKey
	ed ed25519.PrivateKey
}

func newSigners(t *testing.T) signers {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signers{ec, rs, ed}
}

// scene is an issuer on the web, a token, and a cloud that is set up for both. A
// test changes one thing.
type scene struct {
	t        *testing.T
	signers  signers
	provider oidc.Provider

	issuer   string // in kith.yaml, and as the cloud is told
	audience string // as the cloud is told
	subject  string // as the cloud is told
	resource string
	alg, kid string
	claims   map[string]any
	mapping  func(string) string                          // of Google
	edit     func(path string, body []byte) (int, []byte) // what is served instead
}

func newScene(t *testing.T, keys signers, provider oidc.Provider) *scene {
	s := &scene{t: t, signers: keys, provider: provider, issuer: issuer, subject: subject, alg: "ES256", kid: "e1"}
	if provider == oidc.GCP {
		s.resource = "projects/123/locations/global/workloadIdentityPools/kith/providers/acme"
	}
	if provider == oidc.Azure {
		s.alg, s.kid = "RS256", "r1"
	}
	s.audience = oidc.UsualAudience(provider, s.resource)
	now := time.Now()
	s.claims = map[string]any{
		"iss": issuer, "sub": subject, "aud": []string{s.audience}, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "jti": "1",
	}
	return s
}

// mint signs the claims.
func (s *scene) mint() string {
	s.t.Helper()
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			s.t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	content := part(map[string]string{"alg": s.alg, "kid": s.kid, "typ": "JWT"}) + "." + part(s.claims)
	var signature []byte
	var err error
	switch s.alg {
	case "ES256":
		sum := sha256.Sum256([]byte(content))
		var r, v *big.Int
		if r, v, err = ecdsa.Sign(rand.Reader, s.signers.ec, sum[:]); err == nil {
			signature = append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...)
		}
	case "RS256":
		sum := sha256.Sum256([]byte(content))
		signature, err = rsa.SignPKCS1v15(rand.Reader, s.signers.rs, crypto.SHA256, sum[:])
	case "RS384":
		sum := sha512.Sum384([]byte(content))
		signature, err = rsa.SignPKCS1v15(rand.Reader, s.signers.rs, crypto.SHA384, sum[:])
	case "EdDSA":
		signature = ed25519.Sign(s.signers.ed, []byte(content))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return content + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// serve publishes kith's own documents, edited, as oidc.acme.example. It returns how
// to get there and by which CA.
func (s *scene) serve() (address string, roots *x509.CertPool) {
	s.t.Helper()
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		s.t.Fatal(err)
	}
	bundle, err := spiffe.NewBundle(td, 1, 0).WithJWTKeys(
		spiffe.JWTKey{ID: "e1", Public: s.signers.ec.Public(), Algorithm: "ES256"}, spiffe.JWTKey{ID: "r1", Public: s.signers.rs.Public(), Algorithm: "RS256"})
	if err != nil {
		s.t.Fatal(err)
	}
	endpoint, err := oidc.NewEndpoint(s.issuer, func() *spiffe.Bundle { return bundle })
	if err != nil {
		s.t.Fatal(err)
	}
	cert, pool := certificate(s.t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if s.edit == nil {
			endpoint.ServeHTTP(rw, r)
			return
		}
		made := httptest.NewRecorder()
		endpoint.ServeHTTP(made, r)
		status, body := s.edit(r.URL.Path, made.Body.Bytes())
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(status)
		_, _ = rw.Write(body)
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	s.t.Cleanup(server.Close)
	return server.Listener.Addr().String(), pool
}

// certificate is a web server's for oidc.acme.example.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "oidc"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(60 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{"oidc.acme.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// play shows the token to the linter and to the cloud.
func (s *scene) play() (oidc.Report, string) {
	s.t.Helper()
	address, roots := s.serve()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	token := s.mint()
	lint := oidc.Lint{
		Provider: s.provider, Issuer: s.issuer, Audience: s.audience, Resource: s.resource, Token: token, Roots: roots, Dial: dial, Now: time.Now,
	}
	report := lint.Run(s.t.Context())
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return report, s.show(&http.Client{Transport: transport}, token)
}

// show sets the cloud up as its own commands would, and logs in. It returns the
// refusal, empty for none.
func (s *scene) show(client *http.Client, token string) string {
	s.t.Helper()
	var cloud http.Handler
	form := func(pairs ...string) (*http.Request, *httptest.ResponseRecorder) {
		values := url.Values{}
		for i := 0; i+1 < len(pairs); i += 2 {
			values.Set(pairs[i], pairs[i+1])
		}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(values.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return r, httptest.NewRecorder()
	}
	refused := func(r *http.Request, rw *httptest.ResponseRecorder) string {
		cloud.ServeHTTP(rw, r)
		body, _ := io.ReadAll(rw.Body)
		if rw.Code == http.StatusOK {
			return ""
		}
		return string(body)
	}
	put := func(path string, body any) string {
		text, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		return refused(httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(text))), httptest.NewRecorder())
	}
	switch s.provider {
	case oidc.AWS:
		cloud = &oidctest.AWS{Client: client, Subject: s.subject}
		if no := refused(form("Action", "CreateOpenIDConnectProvider", "Url", s.issuer, "ClientIDList.member.1", s.audience)); no != "" {
			return no
		}
		return refused(form("Action", "AssumeRoleWithWebIdentity", "WebIdentityToken", token))
	case oidc.GCP:
		cloud = &oidctest.GCP{Client: client, Issuer: s.issuer, Audience: s.audience, Mapping: s.mapping}
		return refused(form("subject_token", token))
	case oidc.Azure:
		cloud = &oidctest.Azure{Client: client, Issuer: s.issuer, Subject: s.subject}
		return refused(form("client_assertion", token))
	}
	cloud = &oidctest.Vault{Client: client}
	if no := put("/v1/auth/jwt/config", map[string]any{"oidc_discovery_url": s.issuer, "bound_issuer": s.issuer, "jwt_supported_algs": []string{"RS256", "ES256"}}); no != "" {
		return no
	}
	if no := put("/v1/auth/jwt/role/orders", map[string]any{"role_type": "jwt", "bound_audiences": []string{s.audience}, "bound_subject": s.subject, "user_claim": "sub"}); no != "" {
		return no
	}
	return put("/v1/auth/jwt/login", map[string]any{"role": "orders", "jwt": token})
}
