// Package usertokentest is a provider of end users' tokens for tests: keys that
// rotate, a JWK Set and tokens, lawful or not. It leaves out every login.
package usertokentest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"
)

// Forge signs tokens as one issuer.
type Forge struct {
	Issuer string

	t    testing.TB
	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey // by kid; guarded by mu
	kid  string                       // signs; guarded by mu
}

// New is a provider with the key "k1".
func New(t testing.TB, issuer string) *Forge {
	t.Helper()
	f := &Forge{Issuer: issuer, t: t, keys: map[string]*ecdsa.PrivateKey{}}
	f.Rotate("k1")
	return f
}

// Rotate signs with a new key from now on; the keys of before stay published.
func (f *Forge) Rotate(kid string) {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.keys[kid], f.kid = key, kid
}

// Withdraw takes a key out of the set.
func (f *Forge) Withdraw(kid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.keys, kid)
}

// JWKS is the set of now, as it is published.
func (f *Forge) JWKS() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for kid, key := range f.keys {
		point, err := key.PublicKey.Bytes()
		if err != nil {
			f.t.Error(err)
			return ""
		}
		encode := base64.RawURLEncoding.EncodeToString
		keys = append(keys, fmt.Sprintf(`{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":%q,"x":%q,"y":%q}`, kid, encode(point[1:33]), encode(point[33:])))
	}
	return `{"keys":[` + strings.Join(keys, ",") + `]}`
}

// Claims are lawful claims at a time, for five minutes, with others put in or,
// where nil, left out.
func (f *Forge) Claims(now time.Time, others map[string]any) map[string]any {
	claims := map[string]any{"iss": f.Issuer, "sub": "alice", "aud": "orders", "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix()}
	maps.Copy(claims, others)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// Token is a lawful token but for the claims given.
func (f *Forge) Token(now time.Time, others map[string]any) string {
	f.t.Helper()
	f.mu.Lock()
	kid := f.kid
	f.mu.Unlock()
	return f.Sign(kid, map[string]any{"alg": "ES256", "kid": kid, "typ": "JWT"}, f.Claims(now, others))
}

// Sign signs any header and claims by a key.
func (f *Forge) Sign(kid string, header, claims map[string]any) string {
	f.t.Helper()
	f.mu.Lock()
	key := f.keys[kid]
	f.mu.Unlock()
	content := f.part(header) + "." + f.part(claims)
	digest := sha256.Sum256([]byte(content))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		f.t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return content + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

func (f *Forge) part(v any) string {
	f.t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		f.t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(text)
}
