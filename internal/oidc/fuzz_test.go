package oidc

import (
	"strings"
	"testing"
	"time"
)

// FuzzDocuments reads what a web server that is not ours may answer.
func FuzzDocuments(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "[]", "null", `{"issuer":"https://oidc.acme.example","jwks_uri":"https://oidc.acme.example/k"}`,
		`{"issuer":1,"jwks_uri":"%zz"}`, `{"keys":[{"kty":"EC","x5c":["AA=="]}]}`, `{"keys":[{"kty":"RSA","n":"AQ","e":"AQAB","alg":"RS256","kid":"a"}]}`,
		`{"jwks_uri":"https:"}`, `{"keys":null}`, `{"keys":[null]}`, `{"keys":[{"kty":"oct","k":"AA"}]}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		for _, provider := range Providers() {
			r := &linting{Lint: Lint{Provider: provider, Issuer: "https://oidc.acme.example", Audience: "a", Now: time.Now}, limits: of(provider)}
			keys, ok := r.discovered("https://oidc.acme.example", []byte(body))
			if ok && (len(keys) < len("https://x") || !strings.EqualFold(keys[:8], "https://")) {
				t.Errorf("%q leads to %q", body, keys)
			}
			r.keySet("https://oidc.acme.example", []byte(body))
			if len(r.report.Findings) == 0 {
				t.Errorf("%q: nothing is said of it", body)
			}
		}
	})
}
