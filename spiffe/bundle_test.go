package spiffe_test

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

func b64(cert *x509.Certificate) string { return base64.StdEncoding.EncodeToString(cert.Raw) }

// jwks is a bundle document with the given entries and top-level members.
func jwks(entries []string, members ...string) []byte {
	return []byte("{" + strings.Join(append(members, `"keys":[`+strings.Join(entries, ",")+"]"), ",") + "}")
}

func entry(cert *x509.Certificate) string {
	return fmt.Sprintf(`{"kty":"EC","use":"x509-svid","x5c":[%q]}`, b64(cert))
}

func parse(t *testing.T, a *authority, document []byte) *spiffe.Bundle {
	t.Helper()
	b, err := spiffe.ParseBundle(a.td, document)
	if err != nil {
		t.Fatalf("ParseBundle(%s): %v", document, err)
	}
	return b
}

func refusesBundle(t *testing.T, a *authority, why string, document []byte) {
	t.Helper()
	if _, err := spiffe.ParseBundle(a.td, document); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("ParseBundle(%.200s): %v, want an error with %q", document, err, why)
	}
}

func TestRule31EntriesWeWrite(t *testing.T) {
	root := newRoot(t, "acme.example")
	out, err := spiffe.NewBundle(root.td, 7, 90*time.Second, root.cert).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Keys     []map[string]any `json:"keys"`
		Sequence int              `json:"spiffe_sequence"`
		Hint     int              `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal(out, &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Keys) != 1 || document.Sequence != 7 || document.Hint != 90 {
		t.Fatalf("document is %s", out)
	}
	key := document.Keys[0]
	if key["use"] != "x509-svid" || key["kty"] != "EC" || key["crv"] != "P-256" {
		t.Errorf("key is %v", key)
	}
	if _, ok := key["kid"]; ok {
		t.Error("kid is there")
	}
	if chain, ok := key["x5c"].([]any); !ok || len(chain) != 1 || chain[0] != b64(root.cert) {
		t.Errorf("x5c is %v", key["x5c"])
	}
}

func TestRule32FirstOfX5C(t *testing.T) {
	root, other := newRoot(t, "acme.example"), newRoot(t, "acme.example")
	two := fmt.Sprintf(`{"kty":"EC","use":"x509-svid","x5c":[%q,%q]}`, b64(root.cert), b64(other.cert))
	b := parse(t, root, jwks([]string{two}))
	if len(b.Roots()) != 1 || !b.Roots()[0].Equal(root.cert) {
		t.Errorf("%d roots, want only the first", len(b.Roots()))
	}
	for _, without := range []string{`{"kty":"EC","use":"x509-svid"}`, `{"kty":"EC","use":"x509-svid","x5c":[]}`, `{"kty":"EC","use":"x509-svid","x5c":null}`} {
		if b := parse(t, root, jwks([]string{without, entry(root.cert)})); len(b.Roots()) != 1 {
			t.Errorf("%s beside a root: %d roots, want 1", without, len(b.Roots()))
		}
	}
}

func TestRule64JWKSet(t *testing.T) {
	root := newRoot(t, "acme.example")
	b := parse(t, root, jwks([]string{entry(root.cert)}, `"future":{"a":[1,2]}`, `"spiffe_other": null`))
	if len(b.Roots()) != 1 {
		t.Errorf("%d roots beside unknown members", len(b.Roots()))
	}
	for _, bad := range []string{"", "null", "[]", `"a"`, "{", `{"keys":[]`, `{"keys":[]} {}`, `{"keys":[]}]`, "\xff", `{"keys":[1]}`, `{"keys":[null]}`} {
		refusesBundle(t, root, "bundle of acme.example", []byte(bad))
	}
}

func TestRule65Sequence(t *testing.T) {
	root := newRoot(t, "acme.example")
	for text, want := range map[string]uint64{"0": 0, "1": 1, "9223372036854775808": 1 << 63, "18446744073709551615": 1<<64 - 1, " 12 ": 12} {
		if b := parse(t, root, jwks(nil, `"spiffe_sequence":`+text)); b.Sequence() != want {
			t.Errorf("sequence %s is read as %d", text, b.Sequence())
		}
	}
	for _, bad := range []string{"-1", "1.5", "1e3", `"1"`, "null", "18446744073709551616"} {
		refusesBundle(t, root, "spiffe_sequence", jwks(nil, `"spiffe_sequence":`+bad))
	}
}

func TestRule66RefreshHint(t *testing.T) {
	root := newRoot(t, "acme.example")
	if b := parse(t, root, jwks(nil, `"spiffe_refresh_hint":60`)); b.RefreshHint() != time.Minute {
		t.Errorf("hint 60 is read as %s", b.RefreshHint())
	}
	for _, bad := range []string{"-1", "1.5", `"1"`, "9223372037"} {
		refusesBundle(t, root, "spiffe_refresh_hint", jwks(nil, `"spiffe_refresh_hint":`+bad))
	}
}

func TestRule67KeysPresent(t *testing.T) {
	root := newRoot(t, "acme.example")
	refusesBundle(t, root, "keys is missing", []byte(`{}`))
	refusesBundle(t, root, "keys is missing", []byte(`{"keys":null}`))
	refusesBundle(t, root, "keys is missing", []byte(`{"keys":{}}`))
	refusesBundle(t, root, "keys is missing", []byte(`{"Keys":[]}`)) // names are case sensitive
	if b := parse(t, root, []byte(`{"keys": [ ] }`)); len(b.Roots()) != 0 {
		t.Error("an empty list has roots")
	}
	out, err := spiffe.NewBundle(root.td, 0, 0).Marshal()
	if err != nil || string(out) != `{"keys":[]}` {
		t.Errorf("an empty bundle is written as %s, %v", out, err)
	}
}

func TestRule68EmptyBundleTrustsNothing(t *testing.T) {
	root := newRoot(t, "acme.example")
	for _, document := range [][]byte{
		jwks(nil),
		jwks([]string{`{"kty":"EC","use":"x509-svid","x5c":[]}`}),
		jwks([]string{fmt.Sprintf(`{"kty":"EC","use":"X509-SVID","x5c":[%q]}`, b64(root.cert))}),
	} {
		b := parse(t, root, document)
		if id, err := spiffe.Verify([]*x509.Certificate{root.leaf("/a"), root.cert}, spiffe.BundleMap{root.td: b}.Bundle, epoch); err == nil {
			t.Errorf("%.60s: Verify = %s", document, id)
		}
	}
}

func TestRule69UnknownKeysIgnored(t *testing.T) {
	root := newRoot(t, "acme.example")
	with := func(members string) string { return fmt.Sprintf(`{%s,"x5c":[%q]}`, members, b64(root.cert)) }
	for _, ignored := range []string{
		with(`"kty":"XX","use":"x509-svid"`), with(`"kty":"oct","use":"x509-svid"`), with(`"kty":"ec","use":"x509-svid"`), with(`"use":"x509-svid"`),
		with(`"kty":"EC"`), with(`"kty":"EC","use":"sig"`), with(`"kty":"EC","use":"X509-SVID"`), with(`"kty":"EC","use":"x509-svid "`),
		with(`"kty":"EC","USE":"x509-svid"`), with(`"kty":"EC","use":null`), with(`"kty":"EC","use":["x509-svid"]`),
		with(`"kty":"EC","use":"jwt-svid"`), with(`"kty":"EC","use":"wit-svid"`), `{}`,
	} {
		if b := parse(t, root, jwks([]string{ignored})); len(b.Roots()) != 0 {
			t.Errorf("%.60s was taken for a root", ignored)
		}
	}
}

func TestRule70KindAndUseOnEachKey(t *testing.T) {
	root := newRoot(t, "acme.example")
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384 := mustECDSA(t, elliptic.P384())
	b := spiffe.NewBundle(root.td, 1, 0, root.cert,
		sign(t, caTemplate(root.td, "ed"), nil, edwards.Public(), edwards, nil),
		sign(t, caTemplate(root.td, "rsa"), nil, rsaKey.Public(), rsaKey, nil),
		sign(t, caTemplate(root.td, "p384"), nil, p384.Public(), p384, nil))
	out, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Keys []struct{ Use, Kty string } }
	if err := json.Unmarshal(out, &document); err != nil {
		t.Fatal(err)
	}
	kinds := ""
	for _, key := range document.Keys {
		if key.Use != "x509-svid" {
			t.Errorf("use is %q", key.Use)
		}
		kinds += key.Kty + " "
	}
	if kinds != "EC OKP RSA EC " {
		t.Errorf("kinds are %s", kinds)
	}
	if again := parse(t, root, out); !again.Equal(b) {
		t.Error("what was written is not read as the same bundle")
	}
}

func TestRule71BundleMap(t *testing.T) {
	a, b := newRoot(t, "a.example"), newRoot(t, "b.example")
	one := fmt.Sprintf(`{"keys":[%s],"spiffe_refresh_hint":1,"spiffe_sequence":3}`, entry(a.cert))
	two := fmt.Sprintf(`{"keys":[%s]}`, entry(b.cert))
	m, err := spiffe.ParseBundleMap(fmt.Appendf(nil, `{"trust_domains":{"a.example":%s,"b.example":%s},"more":1}`, one, two))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := m.Bundle(a.td)
	if len(m) != 2 || !ok || got.Sequence() != 3 || got.RefreshHint() != spiffe.DefaultRefreshHint {
		t.Errorf("map has %d bundles, sequence %d, hint %s", len(m), got.Sequence(), got.RefreshHint())
	}
	if id, err := spiffe.Verify([]*x509.Certificate{b.leaf("/", rawURIs(true, "spiffe://a.example/x"))}, m.Bundle, epoch); err == nil {
		t.Errorf("bundles of a map were merged: %s", id)
	}
	if m, err := spiffe.ParseBundleMap([]byte(`{"trust_domains":{}}`)); err != nil || len(m) != 0 {
		t.Errorf("an empty map: %v, %v", m, err)
	}
	for why, bad := range map[string]string{
		"trust_domains is missing":      `{}`,
		"occurs twice":                  `{"trust_domains":{"a.example":` + two + `,"a.example":` + one + `}}`,
		`"trust_domains" occurs twice`:  `{"trust_domains":{},"trust_domains":{}}`,
		"not a JSON object":             `{"trust_domains":null}`,
		"only a-z":                      `{"trust_domains":{"A.example":` + one + `}}`,
		"bundle of a.example: keys is ": `{"trust_domains":{"a.example":{}}}`,
	} {
		if _, err := spiffe.ParseBundleMap([]byte(bad)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("ParseBundleMap(%.80s): %v, want an error with %q", bad, err, why)
		}
	}
}

func TestRule73DefaultRefresh(t *testing.T) {
	root := newRoot(t, "acme.example")
	if got := root.bundle().RefreshHint(); got != 5*time.Minute {
		t.Errorf("RefreshHint without a hint = %s", got)
	}
}

func TestHostileBundles(t *testing.T) {
	root := newRoot(t, "acme.example")
	refusesBundle(t, root, "occurs twice", []byte(`{"keys":[],"keys":[`+entry(root.cert)+`]}`))
	refusesBundle(t, root, "occurs twice", []byte(`{"keys":[{"use":"sig","use":"x509-svid"}]}`))
	refusesBundle(t, root, `"use" occurs twice`, []byte(`{"keys":[{"use":"sig","us\u0065":"x509-svid"}]}`))
	refusesBundle(t, root, "key 1", jwks([]string{entry(root.cert), `{"kty":"EC","use":"x509-svid","x5c":["!!"]}`}))
	refusesBundle(t, root, "key 0", jwks([]string{`{"kty":"EC","use":"x509-svid","x5c":["AAAA"]}`}))
	refusesBundle(t, root, "list of strings", jwks([]string{`{"kty":"EC","use":"x509-svid","x5c":"AAAA"}`}))
	refusesBundle(t, root, "at most 512", jwks(strings.Split(strings.Repeat("{} ", 513), " ")[:513]))
	refusesBundle(t, root, "at most 1048576", make([]byte, 1<<20+1))
	refusesBundle(t, root, "bundle of", []byte(strings.Repeat(`{"keys":`, 20000)))
	refusesBundle(t, root, "bundle of", []byte("<html>not a bundle</html>"))
	if _, err := spiffe.ParseBundle(spiffe.TrustDomain{}, jwks(nil)); err == nil {
		t.Error("a bundle of no trust domain was accepted")
	}
	if _, err := spiffe.ParseBundleMap(make([]byte, 16<<20+1)); err == nil {
		t.Error("a map of over 16 MiB was accepted")
	}
}

func TestBundleIsImmutable(t *testing.T) {
	root, other := newRoot(t, "acme.example"), newRoot(t, "acme.example")
	b := spiffe.NewBundle(root.td, 1, 0, root.cert, root.cert)
	roots := b.Roots()
	if len(roots) != 1 {
		t.Fatalf("%d roots, want a root given twice to be there once", len(roots))
	}
	roots[0] = other.cert
	if !b.Roots()[0].Equal(root.cert) {
		t.Error("a caller changed the bundle")
	}
}

func TestBundleEqual(t *testing.T) {
	root, other := newRoot(t, "acme.example"), newRoot(t, "acme.example")
	base := spiffe.NewBundle(root.td, 1, time.Minute, root.cert, other.cert)
	if !base.Equal(spiffe.NewBundle(root.td, 1, time.Minute, other.cert, root.cert)) {
		t.Error("the order of roots matters")
	}
	for name, b := range map[string]*spiffe.Bundle{
		"sequence": spiffe.NewBundle(root.td, 2, time.Minute, root.cert, other.cert),
		"hint":     spiffe.NewBundle(root.td, 1, 0, root.cert, other.cert),
		"fewer":    spiffe.NewBundle(root.td, 1, time.Minute, root.cert),
		"others":   spiffe.NewBundle(root.td, 1, time.Minute, root.cert, newRoot(t, "acme.example").cert),
		"domain":   spiffe.NewBundle(mustTD(t, "b.example"), 1, time.Minute, root.cert, other.cert),
		"nil":      nil,
	} {
		if base.Equal(b) {
			t.Errorf("a bundle with another %s is equal", name)
		}
	}
}

func TestParseRoots(t *testing.T) {
	root, other := newRoot(t, "acme.example"), newRoot(t, "acme.example")
	b := spiffe.NewBundle(root.td, 0, 0, root.cert, other.cert)
	again, err := spiffe.ParseRoots(root.td, b.MarshalRoots())
	if err != nil || !again.Equal(b) {
		t.Errorf("ParseRoots: %v", err)
	}
	if b, err := spiffe.ParseRoots(root.td, nil); err != nil || len(b.Roots()) != 0 {
		t.Errorf("ParseRoots of nothing: %v", err)
	}
	if _, err := spiffe.ParseRoots(root.td, []byte("x")); err == nil {
		t.Error("ParseRoots accepted a letter")
	}
	if _, err := spiffe.ParseRoots(root.td, make([]byte, 1<<20+1)); err == nil {
		t.Error("ParseRoots accepted over 1 MiB")
	}
}
