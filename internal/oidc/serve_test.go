package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const issuer = "https://oidc.acme.example/kith"

// bundleOf is a bundle with a root-less set of keys.
func bundleOf(t testing.TB, keys ...spiffe.JWTKey) *spiffe.Bundle {
	t.Helper()
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := spiffe.NewBundle(td, 1, 0).WithJWTKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func ecKey(t testing.TB, id string) (spiffe.JWTKey, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return spiffe.JWTKey{ID: id, Public: key.Public(), Algorithm: es256}, key
}

func rsaKey(t testing.TB, id string) (spiffe.JWTKey, *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return spiffe.JWTKey{ID: id, Public: key.Public(), Algorithm: rs256}, key
}

func ask(e *Endpoint, method, path string, headers ...string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, path, nil)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	out := httptest.NewRecorder()
	e.ServeHTTP(out, request)
	return out
}

func TestDocumentsHaveExactlyWhatReceiversDemand(t *testing.T) {
	ec, _ := ecKey(t, "e1")
	rs, _ := rsaKey(t, "r1")
	bundle := bundleOf(t, ec, rs)
	e, err := NewEndpoint(issuer, func() *spiffe.Bundle { return bundle })
	if err != nil {
		t.Fatal(err)
	}
	answer := ask(e, http.MethodGet, "/kith"+DiscoveryPath)
	var got map[string]any
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"issuer": issuer, "jwks_uri": issuer + "/.well-known/jwks.json",
		"response_types_supported": []any{"id_token"}, "subject_types_supported": []any{"public"},
		"id_token_signing_alg_values_supported": []any{"RS256", "ES256"},
		"claims_supported":                      []any{"iss", "sub", "aud", "exp", "iat", "jti"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("discovery (-want +got):\n%s", diff)
	}
	answer = ask(e, http.MethodGet, "/kith"+KeysPath)
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(answer.Body.Bytes(), &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("got %s (%v), want two keys", answer.Body, err)
	}
	for _, key := range set.Keys {
		fields := map[string]string{"EC": "alg crv kid kty use x y", "RSA": "alg e kid kty n use"}[key["kty"]]
		for _, name := range strings.Fields(fields) {
			if key[name] == "" {
				t.Errorf("key %s has no %s", key["kid"], name)
			}
		}
		if len(key) != len(strings.Fields(fields)) || key["use"] != "sig" {
			t.Errorf("got %v, want only %s, for sig", key, fields)
		}
	}
	read, err := spiffe.ParseJWKSet(answer.Body.Bytes())
	if err != nil || read == nil {
		t.Errorf("our own reader: %v", err)
	}
}

func TestDocumentsMayBeKeptForAWhile(t *testing.T) {
	first, _ := ecKey(t, "one")
	second, _ := ecKey(t, "two")
	var current atomic.Pointer[spiffe.Bundle]
	current.Store(bundleOf(t, first))
	e, err := NewEndpoint("https://oidc.acme.example", current.Load)
	if err != nil {
		t.Fatal(err)
	}
	answer := ask(e, http.MethodGet, KeysPath)
	tag := answer.Header().Get("Etag")
	if answer.Header().Get("Cache-Control") != "public, max-age=300" || answer.Header().Get("Content-Type") != "application/json" || tag == "" {
		t.Errorf("head: %v", answer.Header())
	}
	if again := ask(e, http.MethodGet, KeysPath, "If-None-Match", tag); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
		t.Errorf("asked again with the tag: %d and %d bytes, want 304 without any", again.Code, again.Body.Len())
	}
	current.Store(bundleOf(t, first, second)) // published, and signing nothing yet
	if after := ask(e, http.MethodGet, KeysPath, "If-None-Match", tag); after.Code != http.StatusOK || !strings.Contains(after.Body.String(), `"kid":"two"`) {
		t.Errorf("with a new key: %d %s", after.Code, after.Body)
	}
	if head := ask(e, http.MethodHead, KeysPath); head.Code != http.StatusOK {
		t.Errorf("HEAD: %d", head.Code)
	}
}

func TestEndpointGivesNothingElse(t *testing.T) {
	key, _ := ecKey(t, "one")
	bundle := bundleOf(t, key)
	e, err := NewEndpoint(issuer, func() *spiffe.Bundle { return bundle })
	if err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]int{
		"GET /": 404, "GET /kith": 404, "GET " + DiscoveryPath: 404, "GET " + KeysPath: 404, "GET /kith/.well-known/": 404,
		"POST /kith" + DiscoveryPath: 405, "PUT /kith" + KeysPath: 405, "DELETE /kith" + KeysPath: 405, "OPTIONS /kith" + KeysPath: 405,
	} {
		method, path, _ := strings.Cut(request, " ")
		if got := ask(e, method, path); got.Code != want {
			t.Errorf("%s: got %d, want %d", request, got.Code, want)
		}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(e.Collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	other := 0.0
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if family.GetName() == "kith_oidc_keys" && metric.GetGauge().GetValue() != 1 {
				t.Errorf("keys: %v", metric)
			}
			if family.GetName() == "kith_oidc_requests_total" {
				other += metric.GetCounter().GetValue()
			}
		}
	}
	if other != 9 {
		t.Errorf("%v requests counted, want 9", other)
	}
}

func TestEndpointNeedsAnIssuer(t *testing.T) {
	for _, bad := range []string{"", "http://oidc.acme.example", "https://oidc.acme.example/"} {
		if _, err := NewEndpoint(bad, nil); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want it refused", bad, err)
		}
	}
}
