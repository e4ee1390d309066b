package ca

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// advanceWIT is advance where WIT-SVIDs are issued.
func (f *fixture) advanceWIT(t testing.TB, ring []byte) []byte {
	t.Helper()
	config := f.ringConfig()
	config.WIT = true
	next, err := AdvanceJWTRing(ring, config)
	if err != nil {
		t.Fatal(err)
	}
	if next.Changed {
		if err := f.UseJWTRing(next.Ring); err != nil {
			t.Fatal(err)
		}
	}
	return next.Ring
}

func witRequest(t testing.TB, path string) WITRequest {
	t.Helper()
	r := request(t, path)
	return WITRequest{ID: r.ID, PublicKey: r.PublicKey, Requester: r.Requester, Rule: r.Rule, Revision: r.Revision}
}

func mustSignWIT(t testing.TB, f *fixture, path string) *spiffe.WITSVID {
	t.Helper()
	result := f.SignWITs(t.Context(), []WITRequest{witRequest(t, path)})[0]
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.SVID
}

// Rules 46 to 58: what we issue, part by part. Rule 56: there is no iss, so no
// OpenID provider's verifier can find its way to the keys.
func TestRule46To58WhatWeIssue(t *testing.T) {
	f := newFixture(t)
	f.advanceWIT(t, nil)
	svid := mustSignWIT(t, f, "/eks/shop/orders")
	parts := strings.Split(svid.Token(), ".")
	var header, claims map[string]any
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			t.Fatalf("part %d: %v", i, err)
		}
	}
	kid := f.Bundle().WITKeys()[0].ID
	if len(header) != 3 || header["alg"] != "ES256" || header["kid"] != kid || header["typ"] != "wit+jwt" {
		t.Errorf("header is %v", header)
	}
	if claims["sub"] != "spiffe://acme.example/eks/shop/orders" || claims["exp"] != float64(epoch.Add(WITLifetime).Unix()) ||
		claims["aud"] != nil || claims["iss"] != nil || len(claims["jti"].(string)) != 32 || claims["nbf"].(float64) > claims["iat"].(float64) {
		t.Errorf("claims are %v", claims)
	}
	jwk, _ := claims["cnf"].(map[string]any)["jwk"].(map[string]any)
	if jwk["alg"] != "ES256" || jwk["kty"] != "EC" || jwk["d"] != nil {
		t.Errorf("cnf is %v", claims["cnf"])
	}
	if _, err := spiffe.ValidateWIT(svid.Token(), spiffe.WITCheck{Bundle: f.bundles, Now: f.clock.Now()}); err != nil {
		t.Errorf("it does not verify: %v", err)
	}
	if _, err := f.validate(svid.Token(), "orders"); err == nil {
		t.Error("it is good as a JWT-SVID")
	}
	if again := mustSignWIT(t, f, "/eks/shop/orders"); string(again.Claim("jti")) == string(svid.Claim("jti")) {
		t.Error("two have one jti")
	}
}

func TestWITOfTheJournalIsTheOneReleased(t *testing.T) {
	f := newFixture(t)
	f.advanceWIT(t, nil)
	f.entries(t)
	svid := mustSignWIT(t, f, "/a")
	entries := f.entries(t)
	if len(entries) != 1 {
		t.Fatalf("%d entries", len(entries))
	}
	if e := entries[0]; e.Kind != WITEntry || `"`+e.Serial+`"` != string(svid.Claim("jti")) || e.Issuer != svid.KeyID() || len(e.KeyHash) != 64 || e.Rule != "pods" ||
		!e.NotAfter.Equal(epoch.Add(WITLifetime)) || e.event().Facts["token"] != "wit" {
		t.Errorf("the journal has %+v", e)
	}
}

func TestWITThatFailsTheLintStays(t *testing.T) {
	f := newFixture(t)
	f.advanceWIT(t, nil)
	good := f.encode
	stranger, err := spiffe.MarshalProofJWK(request(t, "/x").PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func(jwtKey, jwtClaims) (string, error){
		"other subject": func(k jwtKey, c jwtClaims) (string, error) { c.Subject += "x"; return good(k, c) },
		"an audience":   func(k jwtKey, c jwtClaims) (string, error) { c.Audience = []string{"x"}; return good(k, c) },
		"longer life":   func(k jwtKey, c jwtClaims) (string, error) { c.Expiry++; return good(k, c) },
		"earlier begin": func(k jwtKey, c jwtClaims) (string, error) { c.NotBefore--; return good(k, c) },
		"no begin":      func(k jwtKey, c jwtClaims) (string, error) { c.NotBefore = 0; return good(k, c) },
		"other issue":   func(k jwtKey, c jwtClaims) (string, error) { c.IssuedAt--; return good(k, c) },
		"other jti":     func(k jwtKey, c jwtClaims) (string, error) { c.ID += "0"; return good(k, c) },
		"no key":        func(k jwtKey, c jwtClaims) (string, error) { c.Holder = nil; return good(k, c) },
		"another's key": func(k jwtKey, c jwtClaims) (string, error) { c.Holder = &confirmation{stranger}; return good(k, c) },
		"typ of a JWT":  func(k jwtKey, c jwtClaims) (string, error) { k.header = headerText(k, "JWT"); return good(k, c) },
		"kid of another": func(k jwtKey, c jwtClaims) (string, error) {
			k.id += "x"
			k.header = headerText(k, "wit+jwt")
			return good(k, c)
		},
		"no token": func(jwtKey, jwtClaims) (string, error) { return "", errors.New("broken") },
	} {
		f.encode = bad
		f.entries(t)
		result := f.SignWITs(t.Context(), []WITRequest{witRequest(t, "/a")})[0]
		if result.Err == nil || result.SVID != nil {
			t.Errorf("%s: it was released", name)
		}
		entries := f.entries(t)
		if len(entries) != 2 || entries[1].Kind != VoidEntry || entries[0].Serial != entries[1].Serial {
			t.Errorf("%s: the journal has %+v", name, entries)
		}
	}
}

func headerText(k jwtKey, typ string) string {
	text, _ := json.Marshal(jwtHeader{Algorithm: k.algorithm, KeyID: k.id, Type: typ})
	return base64.RawURLEncoding.EncodeToString(text)
}

func TestWITRequestsThatAreRefused(t *testing.T) {
	f := newFixture(t)
	f.advance(t, nil)
	if err := f.SignWITs(t.Context(), []WITRequest{witRequest(t, "/a")})[0].Err; err == nil || !strings.Contains(err.Error(), "no key for WIT-SVIDs") {
		t.Errorf("without a key for it: %v", err)
	}
	f = newFixture(t)
	f.advanceWIT(t, nil)
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*WITRequest){
		"other trust domain": func(r *WITRequest) { r.ID, _ = spiffe.ParseID("spiffe://other.example/a") },
		"no path":            func(r *WITRequest) { r.ID = f.config.TrustDomain.ID() },
		"no key":             func(r *WITRequest) { r.PublicKey = nil },
		"Ed25519":            func(r *WITRequest) { r.PublicKey = ed },
		"P-224":              func(r *WITRequest) { r.PublicKey = elliptic.P224() },
		"short ttl":          func(r *WITRequest) { r.TTL = time.Second },
	} {
		r := witRequest(t, "/a")
		change(&r)
		results := f.SignWITs(t.Context(), []WITRequest{r, witRequest(t, "/b")})
		if !fault.Is(results[0].Err, fault.Invalid) || results[1].Err != nil {
			t.Errorf("%s: got %v and %v", name, results[0].Err, results[1].Err)
		}
	}
	r := witRequest(t, "/a")
	r.TTL = 2 * time.Minute
	if got := f.SignWITs(t.Context(), []WITRequest{r})[0].SVID.Expiry; !got.Equal(epoch.Add(2 * time.Minute)) {
		t.Errorf("a rule of two minutes gives a token until %s", got)
	}
}

// Rule 63: the two kinds have keys of their own, which go through their phases
// apart and never share a kid.
func TestRule63WITKeysByAge(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	ring = f.advanceWIT(t, ring) // turned on later: published, and it signs once every node knows it
	ring = f.advanceWIT(t, ring)
	first := mustSignWIT(t, f, "/a").KeyID()
	if _, ok := f.Bundle().JWTKey(first); ok {
		t.Error("a key for WIT-SVIDs is one for JWT-SVIDs too")
	}
	f.clock.move(jwtPeriod - jwtLead)
	ring = f.advanceWIT(t, ring)
	if n := len(f.Bundle().WITKeys()); n != 2 || mustSignWIT(t, f, "/a").KeyID() != first {
		t.Errorf("%d keys, or the new one signs at once", n)
	}
	f.clock.move(jwtLead)
	ring = f.advanceWIT(t, ring)
	if mustSignWIT(t, f, "/a").KeyID() == first {
		t.Error("the old key signs on")
	}
	f.clock.move(WITLifetime / 2)
	if ring = f.advanceWIT(t, ring); len(f.Bundle().WITKeys()) != 2 {
		t.Error("the old key went before its last token ended")
	}
	f.clock.move(WITLifetime)
	if ring = f.advanceWIT(t, ring); len(f.Bundle().WITKeys()) != 1 {
		t.Error("the old key stays")
	}
	ring = f.advance(t, ring) // turned off again
	if err := f.SignWITs(t.Context(), []WITRequest{witRequest(t, "/a")})[0].Err; err == nil {
		t.Error("it signs although it is off")
	}
	f.clock.move(2 * WITLifetime)
	f.advance(t, ring)
	if n := len(f.Bundle().WITKeys()); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// A key sealed for one use cannot be put to another in the store.
func TestWITKeyIsSealedForItsUse(t *testing.T) {
	f := newFixture(t)
	stored := f.advanceWIT(t, nil)
	ring, err := parseJWTRing(stored, f.config.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	ring.Keys[0].Use, ring.Keys[1].Use, ring.Sequence = ring.Keys[1].Use, ring.Keys[0].Use, ring.Sequence+1
	ring.Keys[0], ring.Keys[1] = ring.Keys[1], ring.Keys[0]
	changed, err := json.Marshal(ring)
	if err != nil {
		t.Fatal(err)
	}
	other := newFixture(t)
	other.config.KEK, other.CA.config.KEK = f.config.KEK, f.config.KEK
	if err := other.UseJWTRing(stored); err != nil {
		t.Fatal(err)
	}
	third := newFixture(t)
	third.CA.config.KEK = f.config.KEK
	if err := third.UseJWTRing(changed); err == nil {
		t.Error("keys with their uses exchanged are used")
	}
}
