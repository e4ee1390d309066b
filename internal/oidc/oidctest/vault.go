package oidctest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Vault is the JWT auth method: its configuration, one role, and login. The words
// and leeways are those of its plugin, v0.26.
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
		return "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs' or 'oidc_discovery_url' must be set"
	}
	for _, algorithm := range v.config.Algorithms {
		if !slices.Contains([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"}, algorithm) {
			return fmt.Sprintf("invalid jwt_supported_algs: unsupported signing algorithm %q", algorithm)
		}
	}
	if v.config.Discovery == "" {
		return ""
	}
	if m, _, err := discover(v.Client, v.config.Discovery); err != nil || m.Issuer != v.config.Discovery {
		return "error checking oidc discovery URL"
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
	if err != nil {
		return "error validating token: error verifying token signature: " + err.Error()
	}
	now, begins := time.Now(), t.IssuedAt
	if begins.IsZero() {
		begins = t.Expires.Add(-150 * time.Second)
	}
	var refused string
	switch {
	case !t.verifiedBy(keys):
		refused = "error verifying token signature: no known key successfully validated the token signature"
	case len(v.config.Algorithms) > 0 && !slices.Contains(v.config.Algorithms, t.Algorithm):
		refused = "invalid algorithm (alg) header parameter: token signed with unexpected algorithm"
	case v.config.Issuer != "" && t.Issuer != v.config.Issuer:
		refused = "invalid issuer (iss) claim"
	case v.role.Subject != "" && v.role.Subject != t.Subject:
		refused = "invalid subject (sub) claim"
	case !slices.ContainsFunc(t.Audience, func(name string) bool { return slices.Contains(v.role.Audiences, name) }):
		refused = "invalid audience (aud) claim: audience claim does not match any expected audience"
	case now.Add(time.Minute).Before(begins):
		refused = "invalid not before (nbf) claim: token not yet valid"
	case now.Add(-time.Minute).After(t.Expires):
		refused = "invalid expiration time (exp) claim: token is expired"
	default:
		return ""
	}
	return "error validating token: " + refused
}
