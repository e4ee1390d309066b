package spiffe_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// forge makes tokens, lawful or not, and holds the bundles they are judged by:
// acme.example with a key of each kind, and other.example with the kid "shared".
type forge struct {
	t       testing.TB
	at      time.Time
	keys    map[string]crypto.Signer // by kid
	bundles spiffe.BundleMap
}

// forgeRSA is the RSA key of every forge; all that differs between them is cheap.
var forgeRSA = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

func newForge(t testing.TB, at time.Time) *forge {
	t.Helper()
	rsaKey, err := forgeRSA()
	if err != nil {
		t.Fatal(err)
	}
	f := &forge{t: t, at: at, keys: map[string]crypto.Signer{
		"p256": mustECDSA(t, elliptic.P256()), "p384": mustECDSA(t, elliptic.P384()), "p521": mustECDSA(t, elliptic.P521()),
		"rsa": rsaKey, "rs256": rsaKey, "shared": mustECDSA(t, elliptic.P256()), "elsewhere": mustECDSA(t, elliptic.P256()),
		"stranger": mustECDSA(t, elliptic.P256()),
	}}
	acme, other := mustTD(t, "acme.example"), mustTD(t, "other.example")
	f.bundles = spiffe.BundleMap{
		acme:                   f.bundle(acme, "p256", "p384", "p521", "rsa", "rs256", "shared"),
		other:                  f.bundle(other, "elsewhere"),
		mustTD(t, "x509.only"): newRoot(t, "x509.only").bundle(),
	}
	other2, err := f.bundles[other].WithJWTKeys(append(f.bundles[other].JWTKeys(), spiffe.JWTKey{ID: "shared", Public: mustECDSA(t, elliptic.P256()).Public()})...)
	if err != nil {
		t.Fatal(err)
	}
	f.bundles[other] = other2
	return f
}

func (f *forge) bundle(td spiffe.TrustDomain, kids ...string) *spiffe.Bundle {
	f.t.Helper()
	var keys []spiffe.JWTKey
	for _, kid := range kids {
		key := spiffe.JWTKey{ID: kid, Public: f.keys[kid].Public()}
		if kid == "rs256" {
			key.Algorithm = "RS256"
		}
		keys = append(keys, key)
	}
	b, err := spiffe.NewBundle(td, 1, 0).WithJWTKeys(keys...)
	if err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *forge) check() spiffe.JWTCheck {
	return spiffe.JWTCheck{Audiences: []string{"orders"}, Bundle: f.bundles.Bundle, Now: f.at}
}

// in is a time in so many seconds from now, as a claim has it.
func (f *forge) in(seconds int64) int64 { return f.at.Unix() + seconds }

func b64url(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func headerOf(alg, kid string) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, kid)
}

// claims is lawful claims; a member given replaces the one of its name, one
// without a value removes it.
func (f *forge) claims(members ...string) string {
	list := []string{
		`"sub":"spiffe://acme.example/web"`, `"aud":["orders"]`,
		fmt.Sprintf(`"exp":%d`, f.in(300)), fmt.Sprintf(`"iat":%d`, f.in(0)),
	}
	for _, m := range members {
		name, value, _ := strings.Cut(m, ":")
		i := slices.IndexFunc(list, func(have string) bool { return strings.HasPrefix(have, name+":") })
		switch {
		case i < 0:
			list = append(list, m)
		case value == "":
			list = slices.Delete(list, i, i+1)
		default:
			list[i] = m
		}
	}
	return "{" + strings.Join(list, ",") + "}"
}

// good is a lawful token by the key "p256" with these claims.
func (f *forge) good(members ...string) string {
	return f.signed(headerOf("ES256", "p256"), f.claims(members...), "ES256", "p256")
}

// headed is a lawful token but for its header.
func (f *forge) headed(header string) string { return f.signed(header, f.claims(), "ES256", "p256") }

// signed makes a token out of any two texts, signed by the algorithm and key
// given, whatever the header says.
func (f *forge) signed(header, claims, alg, kid string) string {
	content := b64url(header) + "." + b64url(claims)
	return content + "." + base64.RawURLEncoding.EncodeToString(f.signature(content, alg, kid))
}

func (f *forge) signature(content, alg, kid string) []byte {
	f.t.Helper()
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	h := hash.New()
	h.Write([]byte(content))
	digest := h.Sum(nil)
	var out []byte
	var err error
	switch key := f.keys[kid].(type) {
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, key, digest); err == nil {
			out = halves(r, s, (key.Params().BitSize+7)/8)
		}
	case *rsa.PrivateKey:
		if strings.HasPrefix(alg, "PS") {
			out, err = rsa.SignPSS(rand.Reader, key, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			out, err = rsa.SignPKCS1v15(rand.Reader, key, hash, digest)
		}
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func halves(r, s *big.Int, size int) []byte {
	out := make([]byte, 2*size)
	r.FillBytes(out[:size])
	s.FillBytes(out[size:])
	return out
}

// unsigned is two texts and any third part.
func unsigned(header, claims, signature string) string {
	return b64url(header) + "." + b64url(claims) + "." + signature
}

// mac is a token with an HMAC under a secret that everybody knows.
func (f *forge) mac(secret []byte, kid string) string {
	content := b64url(headerOf("HS256", kid)) + "." + b64url(f.claims())
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(content))
	return content + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// edit changes one part of a lawful token: 0 header, 1 payload, 2 signature.
func (f *forge) edit(part int, change func(string) string) string {
	parts := strings.Split(f.good(), ".")
	parts[part] = change(parts[part])
	return strings.Join(parts, ".")
}
