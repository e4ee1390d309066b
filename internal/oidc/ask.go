package oidc

import (
	"context"
	"crypto/sha1" // a thumbprint of AWS
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/spiffe"
)

const (
	askLimit     = 15 * time.Second
	maxDocument  = 512 << 10
	certificates = 14 * 24 * time.Hour // an end within this is worth a word
)

// published fetches both documents as a receiver does and checks what is in them.
func (r *linting) published(ctx context.Context) {
	client := r.client()
	defer client.CloseIdleConnections()
	at := r.Issuer + DiscoveryPath
	body, state, err := get(ctx, client, at)
	if err != nil {
		r.unreachable(at, err)
		return
	}
	r.certificate(state)
	keys, ok := r.discovered(at, body)
	if !ok {
		return
	}
	body, _, err = get(ctx, client, keys)
	if err != nil {
		r.unreachable(keys, err)
		return
	}
	r.keySet(keys, body)
}

// discovered reads the discovery document and says where the keys are.
func (r *linting) discovered(at string, body []byte) (keys string, ok bool) {
	var document Discovery
	var raw map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(body, &document), json.Unmarshal(body, &raw)); err != nil {
		r.fail("discovery", at+" is no JSON object: "+err.Error(), "does the path lead to kith?")
		return "", false
	}
	return document.KeysURI, r.discovery(document, raw)
}

func (r *linting) client() *http.Client {
	return &http.Client{
		Timeout:       askLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: r.Dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: r.Roots, Time: r.Now},
			DisableCompression: true, MaxResponseHeaderBytes: 16 << 10,
		},
	}
}

// get fetches a bounded document.
func get(ctx context.Context, client *http.Client, at string) ([]byte, *tls.ConnectionState, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, nil, err
	}
	answer, err := client.Do(request)
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	switch {
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return nil, nil, fmt.Errorf("answers with a redirect (%d), which not every receiver follows", answer.StatusCode)
	case answer.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("answers with status %d", answer.StatusCode)
	case kind == "text/html":
		return nil, nil, errors.New("answers with a web page")
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxDocument+1))
	if err == nil && len(body) > maxDocument {
		err = fmt.Errorf("answers with more than %d bytes", maxDocument)
	}
	return body, answer.TLS, err
}

// unreachable is worse where a receiver has no other way to the keys.
func (r *linting) unreachable(at string, err error) {
	do := "a certificate of a public CA, DNS and a firewall that lets the world in; kith doctor on the server"
	if r.limits.offline != "" {
		do += "; or " + r.limits.offline
	}
	r.fail("reach", at+": "+err.Error(), do)
}

// certificate checks how the web server is known.
func (r *linting) certificate(state *tls.ConnectionState) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return
	}
	leaf, last := state.PeerCertificates[0], state.PeerCertificates[len(state.PeerCertificates)-1]
	if left := leaf.NotAfter.Sub(r.Now()); left < certificates {
		r.warn("certificate", fmt.Sprintf("it ends in %s", left.Round(time.Minute)), "renew it; with ACME kith does")
	}
	between := x509.NewCertPool()
	for _, one := range state.PeerCertificates[1:] {
		between.AddCert(one)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Intermediates: between, CurrentTime: r.Now()})
	if r.Roots == nil || err == nil {
		r.ok("reach", "its certificate is of a public CA")
		return
	}
	sum := sha1.Sum(last.Raw)
	switch r.Provider {
	case AWS:
		r.setup.Thumbprint = hex.EncodeToString(sum[:])
		r.warn("reach", "its certificate is of a CA that the public web does not know: AWS then needs a thumbprint", "as in the command below, again whenever the CA changes")
	case Vault:
		r.warn("reach", "its certificate is of a CA that the public web does not know", "vault write auth/jwt/config … oidc_discovery_ca_pem=@ca.pem")
	default:
		r.warn("reach", "its certificate is of a CA that the public web does not know, and "+r.limits.name+" knows no other", "a certificate of a public CA, as from server.oidc.web.acme")
	}
}

// discovery checks the document, and says whether it leads to keys.
func (r *linting) discovery(d Discovery, raw map[string]json.RawMessage) bool {
	var missing []string
	for _, name := range []string{"issuer", "jwks_uri", "response_types_supported", "subject_types_supported", "id_token_signing_alg_values_supported"} {
		if _, ok := raw[name]; !ok {
			missing = append(missing, name)
		}
	}
	if _, ok := raw["claims_supported"]; r.Provider == AWS && !ok {
		missing = append(missing, "claims_supported")
	}
	const mine = "serve kith's own document there, unchanged"
	keys, err := url.Parse(d.KeysURI)
	usable := err == nil && keys.Scheme == "https" && keys.Host != ""
	switch {
	case len(missing) > 0:
		r.fail("discovery", "it lacks "+strings.Join(missing, ", "), mine)
	case d.Issuer != r.Issuer:
		r.fail("discovery", fmt.Sprintf("its issuer is %q, not %q", d.Issuer, r.Issuer), mine+", and the same server.oidc.issuer on every server")
	case !usable:
		r.fail("discovery", fmt.Sprintf("jwks_uri %q is no https URL", d.KeysURI), mine)
	case !slices.ContainsFunc(d.Algorithms, func(a string) bool { return slices.Contains(r.limits.algorithms, a) }):
		r.fail("discovery", fmt.Sprintf("it offers %s, and %s reads %s", strings.Join(d.Algorithms, ", "), r.limits.name, strings.Join(r.limits.algorithms, ", ")),
			fmt.Sprintf("server.rs256_audiences: [%q] in kith.yaml of every server", r.Audience))
	default:
		r.ok("discovery", r.Issuer+DiscoveryPath)
	}
	r.setup.Algorithms = d.Algorithms
	return usable
}

// keySet checks the keys.
func (r *linting) keySet(at string, body []byte) {
	var err error
	if r.set, err = spiffe.ParseJWKSet(body); err != nil {
		r.fail("keys", at+": "+err.Error(), "serve kith's own document there, unchanged")
		return
	}
	var all struct {
		Keys []struct {
			Key
			Chain      json.RawMessage `json:"x5c"`
			Thumbprint json.RawMessage `json:"x5t"`
		}
	}
	if err := json.Unmarshal(body, &all); err != nil {
		r.fail("keys", at+": "+err.Error(), "serve kith's own document there, unchanged")
		return
	}
	kinds, good := map[string]int{}, true
	usable := 0
	for _, key := range all.Keys {
		r.keys = append(r.keys, key.Key)
		kinds[key.Type]++
		if r.limits.plainKeys && (key.Chain != nil || key.Thumbprint != nil) {
			good = false
			r.fail("keys", fmt.Sprintf("key %q has x5c or x5t, which %s refuses", key.ID, r.limits.name), "serve kith's own keys, which have neither")
		}
		if slices.Contains(r.limits.algorithms, key.Algorithm) && key.ID != "" {
			usable++
		}
	}
	for kind, n := range kinds {
		if most := r.limits.keysEach; most > 0 && n > most {
			good = false
			r.fail("keys", fmt.Sprintf("%d %s keys, %s takes %d", n, kind, r.limits.name, most), "take old keys out")
		}
	}
	switch {
	case usable == 0:
		r.fail("keys", fmt.Sprintf("none of %d is for %s with a kid", len(all.Keys), strings.Join(r.limits.algorithms, ", ")),
			fmt.Sprintf("server.rs256_audiences: [%q] in kith.yaml of every server", r.Audience))
	case good:
		r.ok("keys", fmt.Sprintf("%d, of which %s reads %d", len(all.Keys), r.limits.name, usable))
	}
}
