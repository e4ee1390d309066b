// Package vault shows our tokens to Vault's own JWT auth method, the code that a
// Vault server runs, and holds our stand-in for it to what that says. It is a
// module of its own, so that none of its dependencies is one of Kith's.
package vault

import (
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	jwtauth "github.com/hashicorp/vault-plugin-auth-jwt"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/oidc"
	"github.com/kith-id/kith/internal/oidc/oidctest"
	"github.com/kith-id/kith/spiffe"
)

const subject = "spiffe://acme.example/vms/orders"

// trust is a trust domain that is an issuer on the web, its clock off by some time.
type trust struct {
	*ca.CA
	issuer string
	client *http.Client
	pem    string
}

func newTrust(t *testing.T, off time.Duration) *trust {
	t.Helper()
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kek, err := keys.FileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return time.Now().Add(off) }
	root, err := ca.NewRoot(ca.RootConfig{TrustDomain: td, KEK: kek, Now: now()})
	if err != nil {
		t.Fatal(err)
	}
	out := &trust{}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		endpoint, err := oidc.NewEndpoint(out.issuer, out.Bundle)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusInternalServerError)
			return
		}
		endpoint.ServeHTTP(rw, r)
	}))
	web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	out.issuer = "https://" + web.Listener.Addr().String()
	out.CA, err = ca.New(t.Context(), ca.Config{
		TrustDomain: td, Server: "one", Root: root, KEK: kek, Now: now, Issuer: out.issuer, RS256Audiences: []string{"vault-rs"},
		JournalPath: filepath.Join(dir, "journal"), JournalBytes: 4 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	ring, err := ca.AdvanceJWTRing(nil, ca.JWTRingConfig{TrustDomain: td, KEK: kek, Now: now(), RS256: true})
	if err == nil {
		err = out.UseJWTRing(ring.Ring)
	}
	if err != nil {
		t.Fatal(err)
	}
	web.StartTLS()
	t.Cleanup(web.Close)
	out.client = web.Client()
	out.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	return out
}

// token is a JWT-SVID of orders.
func (u *trust) token(t *testing.T, audience string) string {
	t.Helper()
	id, err := spiffe.ParseID(subject)
	if err != nil {
		t.Fatal(err)
	}
	result := u.SignJWTs(t.Context(), []ca.JWTRequest{{ID: id, Audience: []string{audience}, Requester: "test", Rule: "test"}})[0]
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.SVID.Token()
}

// asked is one request to Vault, as its HTTP API has it.
type asked func(t *testing.T, path string, data map[string]any) string

// theirs is Vault's own code.
func theirs(t *testing.T) asked {
	t.Helper()
	storage := &logical.InmemStorage{}
	system := &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour}
	backend, err := jwtauth.Factory(t.Context(), &logical.BackendConfig{StorageView: storage, System: system})
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T, path string, data map[string]any) string {
		t.Helper()
		var operation logical.Operation = logical.UpdateOperation
		if strings.HasPrefix(path, "role/") {
			operation = logical.CreateOperation
		}
		answer, err := backend.HandleRequest(t.Context(), &logical.Request{
			Operation: operation, Path: path, Storage: storage, Data: data, Connection: &logical.Connection{RemoteAddr: "127.0.0.1"},
		})
		switch {
		case answer != nil && answer.IsError():
			return answer.Error().Error()
		case err != nil:
			return err.Error()
		case path == "login" && (answer == nil || answer.Auth == nil || answer.Auth.Alias.Name != subject):
			t.Errorf("login gives no token for %s: %+v", subject, answer)
		}
		return ""
	}
}

// ours is the stand-in of Kith's own tests.
func ours(client *http.Client) asked {
	cloud := &oidctest.Vault{Client: client}
	return func(t *testing.T, path string, data map[string]any) string {
		t.Helper()
		body, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		answer := httptest.NewRecorder()
		cloud.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/v1/auth/jwt/"+path, strings.NewReader(string(body))))
		var said struct{ Errors []string }
		if err := json.Unmarshal(answer.Body.Bytes(), &said); err != nil {
			t.Fatal(err)
		}
		return strings.Join(said.Errors, "")
	}
}

// What kith doctor vault prints works with Vault's own code, and what that refuses,
// the stand-in refuses in the same words.
func TestVaultTakesOurTokens(t *testing.T) {
	now, late := newTrust(t, 0), newTrust(t, -time.Hour)
	for name, tc := range map[string]struct {
		of                *trust
		audience, subject string // bound at Vault
		token             string // its audience
		algorithms        string
		want              string
	}{
		"ES256":          {now, "vault", subject, "vault", "RS256,ES256", ""},
		"RS256":          {now, "vault-rs", subject, "vault-rs", "RS256,ES256", ""},
		"other audience": {now, "vault", subject, "orders", "RS256,ES256", "invalid audience (aud) claim"},
		"other subject":  {now, "vault", "spiffe://acme.example/vms/web", "vault", "RS256,ES256", "invalid subject (sub) claim"},
		"RS256 only":     {now, "vault", subject, "vault", "RS256", "invalid algorithm (alg) header parameter"},
		"ended":          {late, "vault", subject, "vault", "RS256,ES256", "invalid expiration time (exp) claim"},
	} {
		token := tc.of.token(t, tc.token)
		said := map[string]string{}
		for who, ask := range map[string]asked{"vault": theirs(t), "stand-in": ours(tc.of.client)} {
			for _, step := range []struct {
				path string
				data map[string]any
			}{
				{"config", map[string]any{
					"oidc_discovery_url": tc.of.issuer, "oidc_discovery_ca_pem": tc.of.pem, "bound_issuer": tc.of.issuer,
					"jwt_supported_algs": strings.Split(tc.algorithms, ","),
				}},
				{"role/orders", map[string]any{
					"role_type": "jwt", "bound_audiences": []string{tc.audience}, "bound_subject": tc.subject, "user_claim": "sub",
				}},
				{"login", map[string]any{"role": "orders", "jwt": token}},
			} {
				if said[who] = ask(t, step.path, step.data); said[who] != "" {
					break
				}
			}
		}
		if said["vault"] != said["stand-in"] || (said["vault"] == "") != (tc.want == "") || !strings.Contains(said["vault"], tc.want) {
			t.Errorf("%s: Vault says %q, the stand-in %q, want %q", name, said["vault"], said["stand-in"], tc.want)
		}
	}
}
