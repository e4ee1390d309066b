package spiffe_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// jwkOf is the members of a public key as our bundles write it.
func jwkOf(t testing.TB, key spiffe.JWTKey) map[string]any {
	t.Helper()
	b, err := spiffe.NewBundle(mustTD(t, "acme.example"), 1, 0).WithJWTKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Keys []map[string]any }
	if err := json.Unmarshal(out, &document); err != nil || len(document.Keys) != 1 {
		t.Fatalf("%s: %v", out, err)
	}
	return document.Keys[0]
}

// keysOf is the keys for JWT-SVIDs of a document with this one, changed.
func keysOf(t testing.TB, key map[string]any, changes map[string]any) []spiffe.JWTKey {
	t.Helper()
	changed := make(map[string]any)
	for name, value := range key {
		changed[name] = value
	}
	for name, value := range changes {
		if changed[name] = value; value == nil {
			delete(changed, name)
		}
	}
	entry, err := json.Marshal(changed)
	if err != nil {
		t.Fatal(err)
	}
	b, err := spiffe.ParseBundle(mustTD(t, "acme.example"), jwks([]string{string(entry)}))
	if err != nil {
		t.Fatalf("%s: %v", entry, err)
	}
	return b.JWTKeys()
}

func TestRule43KeysWeWrite(t *testing.T) {
	f := newForge(t, epoch)
	for _, kid := range []string{"p256", "p384", "p521", "rsa"} {
		key := spiffe.JWTKey{ID: kid, Public: f.keys[kid].Public()}
		got := jwkOf(t, key)
		if got["use"] != "jwt-svid" || got["kid"] != kid || got["kty"] == nil || got["x5c"] != nil || got["d"] != nil {
			t.Errorf("%s is written as %v", kid, got)
		}
		if back := keysOf(t, got, nil); len(back) != 1 || back[0].ID != kid {
			t.Errorf("%s is read back as %v", kid, back)
		}
	}
}

func TestRule44OnlyKeysForJWT(t *testing.T) {
	f := newForge(t, epoch)
	key := jwkOf(t, spiffe.JWTKey{ID: "p256", Public: f.keys["p256"].Public()})
	for _, use := range []any{"x509-svid", "wit-svid", "sig", "JWT-SVID", "jwt-svid ", nil, []string{"jwt-svid"}} {
		if got := keysOf(t, key, map[string]any{"use": use}); len(got) != 0 {
			t.Errorf("use %v gives %d keys for JWT-SVIDs", use, len(got))
		}
	}
}

// Rule 91, 95: the two kinds of SVID have nothing of each other's bundle.
func TestRule91KindsStayApart(t *testing.T) {
	root := newRoot(t, "acme.example")
	both, err := root.bundle().WithJWTKeys(spiffe.JWTKey{ID: "a", Public: newKey(t).Public()})
	if err != nil {
		t.Fatal(err)
	}
	out, err := both.MarshalJWTKeys()
	if err != nil || strings.Contains(string(out), "x509-svid") || !strings.Contains(string(out), `"kid":"a"`) {
		t.Errorf("keys alone are %s, %v", out, err)
	}
	empty, err := root.bundle().MarshalJWTKeys()
	if err != nil || !strings.HasPrefix(string(empty), `{"keys":[]`) {
		t.Errorf("no keys are %s, %v", empty, err)
	}
	if len(both.Roots()) != 1 || len(root.bundle().JWTKeys()) != 0 {
		t.Error("the bundles have changed")
	}
	whole, err := both.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := spiffe.ParseBundle(root.td, whole); err != nil || !back.Equal(both) || back.Equal(root.bundle()) {
		t.Errorf("%s is not read as the same bundle: %v", whole, err)
	}
}

func TestUnusableKeysAreLeftOut(t *testing.T) {
	f := newForge(t, epoch)
	ec := jwkOf(t, spiffe.JWTKey{ID: "a", Public: f.keys["p256"].Public()})
	rs := jwkOf(t, spiffe.JWTKey{ID: "a", Public: f.keys["rsa"].Public()})
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384 := jwkOf(t, spiffe.JWTKey{ID: "a", Public: f.keys["p384"].Public()})
	for name, c := range map[string]struct {
		key     map[string]any
		changes map[string]any
	}{
		"kid missing":        {ec, map[string]any{"kid": nil}},
		"kid empty":          {ec, map[string]any{"kid": ""}},
		"kid a number":       {ec, map[string]any{"kid": 1}},
		"kid long":           {ec, map[string]any{"kid": strings.Repeat("k", 1025)}},
		"kty missing":        {ec, map[string]any{"kty": nil}},
		"kty oct":            {ec, map[string]any{"kty": "oct", "k": "AAAA"}},
		"kty OKP":            {ec, map[string]any{"kty": "OKP", "crv": "Ed25519"}},
		"curve unknown":      {ec, map[string]any{"crv": "secp256k1"}},
		"curve of another":   {p384, map[string]any{"crv": "P-256"}},
		"point off curve":    {ec, map[string]any{"y": ec["x"]}},
		"x padded":           {ec, map[string]any{"x": ec["x"].(string) + "="}},
		"x with a line end":  {ec, map[string]any{"x": ec["x"].(string) + "\n"}},
		"x short":            {ec, map[string]any{"x": "AA"}},
		"x missing":          {ec, map[string]any{"x": nil}},
		"private EC key":     {ec, map[string]any{"d": "AA"}},
		"private RSA key":    {rs, map[string]any{"d": "AA"}},
		"alg of another":     {ec, map[string]any{"alg": "RS256"}},
		"alg other curve":    {ec, map[string]any{"alg": "ES384"}},
		"alg unknown":        {ec, map[string]any{"alg": "none"}},
		"alg a list":         {ec, map[string]any{"alg": []string{"ES256"}}},
		"for signing":        {ec, map[string]any{"key_ops": []string{"sign"}}},
		"key_ops a text":     {ec, map[string]any{"key_ops": "verify"}},
		"RSA of 1024 bits":   {rs, map[string]any{"n": b64url(string(small.N.Bytes()))}},
		"RSA n with a zero":  {rs, map[string]any{"n": "AA" + rs["n"].(string)}},
		"RSA e of 1":         {rs, map[string]any{"e": "AQ"}},
		"RSA e of 3":         {rs, map[string]any{"e": "Aw"}},
		"RSA e even":         {rs, map[string]any{"e": "AQAA"}},
		"RSA e of 5 bytes":   {rs, map[string]any{"e": "AQAAAAE"}},
		"RSA n of 8192 bits": {rs, map[string]any{"n": b64url(strings.Repeat("\xff", 1024))}},
	} {
		if got := keysOf(t, c.key, c.changes); len(got) != 0 {
			t.Errorf("%s: the key is taken", name)
		}
	}
	for _, good := range []map[string]any{{"alg": "ES256"}, {"key_ops": []string{"verify"}}, {"other": 1}} {
		if got := keysOf(t, ec, good); len(got) != 1 {
			t.Errorf("%v: the key is left out", good)
		}
	}
}

func TestOneKidTwice(t *testing.T) {
	root := newRoot(t, "acme.example")
	one := `{"kty":"EC","crv":"P-256","use":"jwt-svid","kid":"a","x":%q,"y":%q}`
	var entries []string
	for range 2 {
		key := jwkOf(t, spiffe.JWTKey{ID: "a", Public: newKey(t).Public()})
		entries = append(entries, fmt.Sprintf(one, key["x"], key["y"]))
	}
	refusesBundle(t, root, `two keys have the kid "a"`, jwks(entries))
}

func TestWithJWTKeysRefuses(t *testing.T) {
	td := mustTD(t, "acme.example")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t).Public()
	for name, keys := range map[string][]spiffe.JWTKey{
		"no kid":        {{Public: key}},
		"nothing":       {{ID: "a"}},
		"no point":      {{ID: "a", Public: (*ecdsa.PublicKey)(nil)}},
		"P-224":         {{ID: "a", Public: mustECDSA(t, elliptic.P224()).Public()}},
		"Ed25519":       {{ID: "a", Public: edwards.Public()}},
		"one kid twice": {{ID: "a", Public: key}, {ID: "a", Public: key}},
		"another's alg": {{ID: "a", Public: key, Algorithm: "RS256"}},
	} {
		if b, err := spiffe.NewBundle(td, 1, 0).WithJWTKeys(keys...); err == nil || b != nil {
			t.Errorf("%s: got %v, %v", name, b, err)
		}
	}
}
