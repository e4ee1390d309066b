package oidctest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Vault is the JWT auth method: its configuration, one role, and login.
type Vault struct {
	Client *http.Client

	config struct {
		Discovery  string   `json:"oidc_discovery_url"`
		Keys       string   `json:"jwks_url"`
		PublicKeys []string `json:"jwt_validation_pubkeys"`
		Issuer     string   `json:"bound_issuer"`
		Algorithms []string `json:"jwt_supported_algs"`
	}
	role struct {
		Audiences []string `json:"bound_audiences"`
		Subject   string   `json:"bound_subject"`
		UserClaim string   `json:"user_claim"`
		Type      string   `json:"role_type"`
	}
}

// ServeHTTP implements http.Handler.
func (v *Vault) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	var refused string
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/auth/jwt/"); {
	case path == "config":
		refused = v.configure(r)
	case strings.HasPrefix(path, "role/"):
		refused = v.setRole(r)
	case path == "login":
		var in struct{ JWT string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		refused = v.login(in.JWT)
	default:
		refused = "unsupported path"
	}
	if refused != "" {
		answer(rw, http.StatusBadRequest, map[string][]string{"errors": {refused}})
		return
	}
	answer(rw, http.StatusOK, map[string]any{"auth": map[string]string{"client_token": "hvs.test"}})
}

func (v *Vault) configure(r *http.Request) string {
	if err := json.NewDecoder(r.Body).Decode(&v.config); err != nil {
		return "failed to parse JSON input: " + err.Error()
	}
	methods := 0
	for _, set := range []bool{v.config.Discovery != "", v.config.Keys != "", len(v.config.PublicKeys) > 0} {
		if set {
			methods++
		}
	}
	if methods != 1 {
		return "exactly one of 'jwt_validation_pubkeys', 'jwks_url' or 'oidc_discovery_url' must be set"
	}
	for _, algorithm := range v.config.Algorithms {
		if !slices.Contains([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}, algorithm) {
			return "Invalid supported algorithm: " + algorithm
		}
	}
	if v.config.Discovery == "" {
		return ""
	}
	m, _, err := discover(v.Client, v.config.Discovery)
	switch {
	case err != nil:
		return "error checking oidc discovery URL: " + err.Error()
	case m.Issuer != v.config.Discovery:
		return fmt.Sprintf("error checking oidc discovery URL: oidc: issuer did not match the issuer returned by provider, expected %q got %q", v.config.Discovery, m.Issuer)
	}
	return ""
}

func (v *Vault) setRole(r *http.Request) string {
	if err := json.NewDecoder(r.Body).Decode(&v.role); err != nil {
		return "failed to parse JSON input: " + err.Error()
	}
	switch {
	case v.role.UserClaim == "":
		return "a user claim must be defined on the role"
	case len(v.role.Audiences) == 0 && v.role.Subject == "":
		return "must have at least one bound constraint when creating/updating a role"
	}
	return ""
}

func (v *Vault) login(text string) string {
	t, err := read(text)
	if err != nil {
		return "error parsing token: " + err.Error()
	}
	_, keys, err := discover(v.Client, v.config.Discovery)
	algorithms := v.config.Algorithms
	if len(algorithms) == 0 {
		algorithms = []string{"RS256"}
	}
	switch {
	case err != nil:
		return "error validating token: error fetching keys: " + err.Error()
	case !slices.Contains(algorithms, t.Algorithm):
		return fmt.Sprintf("error validating token: error verifying token signature: unsupported signing algorithm; expected %q, got %q", algorithms, t.Algorithm)
	case !t.verifiedBy(keys):
		return "error validating token: error verifying token signature: no known key successfully validated the token signature"
	case v.config.Issuer != "" && t.Issuer != v.config.Issuer:
		return `error validating token: invalid issuer (iss) claim`
	case t.IssuedAt.IsZero():
		return "error validating token: no issued at (iat), not before (nbf), or expiration time (exp) claims in token"
	case time.Now().After(t.Expires.Add(150 * time.Second)):
		return "error validating token: invalid expiration time (exp) claim: token is expired"
	case v.role.Subject != "" && v.role.Subject != t.Subject:
		return "error validating token: invalid subject (sub) claim"
	case !slices.ContainsFunc(t.Audience, func(name string) bool { return slices.Contains(v.role.Audiences, name) }):
		return "error validating token: invalid audience (aud) claim: audience claim does not match any bound audience"
	}
	return ""
}
