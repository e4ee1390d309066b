package ca

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

func (f *fixture) ringConfig() JWTRingConfig {
	return JWTRingConfig{
		TrustDomain: f.config.TrustDomain, KEK: f.config.KEK, Now: f.clock.Now(), RS256: len(f.config.RS256Audiences) > 0,
		Refresh: 5 * time.Minute, Laggards: func(uint64) []string { return f.late }, SignedUntil: f.JWTSignedUntil,
	}
}

// advance does what the server does: it makes the ring what it must be now, and
// uses it.
func (f *fixture) advance(t testing.TB, ring []byte) []byte {
	t.Helper()
	next, err := AdvanceJWTRing(ring, f.ringConfig())
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

func jwtRequest(t testing.TB, path string, audience ...string) JWTRequest {
	t.Helper()
	r := request(t, path)
	return JWTRequest{ID: r.ID, Audience: audience, Requester: r.Requester, Rule: r.Rule, Revision: r.Revision}
}

func mustSignJWT(t testing.TB, f *fixture, path string, audience ...string) *spiffe.JWTSVID {
	t.Helper()
	result := f.SignJWTs(t.Context(), []JWTRequest{jwtRequest(t, path, audience...)})[0]
	if result.Err != nil {
		t.Fatal(result.Err)
	}
	return result.SVID
}

func (f *fixture) validate(token string, audience string) (*spiffe.JWTSVID, error) {
	return spiffe.ValidateJWT(token, spiffe.JWTCheck{Audiences: []string{audience}, Bundle: f.bundles, Now: f.clock.Now()})
}

// Rules 35 to 41: what we issue, part by part.
func TestRule35To41WhatWeIssue(t *testing.T) {
	f := newFixture(t)
	f.advance(t, nil)
	svid := mustSignJWT(t, f, "/eks/shop/orders", "billing", "https://vault.example")
	parts := strings.Split(svid.Token(), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	var header, claims map[string]any
	for i, into := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil || json.Unmarshal(text, into) != nil {
			t.Fatalf("part %d: %v", i, err)
		}
	}
	kid := f.Bundle().JWTKeys()[0].ID
	if len(header) != 3 || header["alg"] != "ES256" || header["kid"] != kid || header["typ"] != "JWT" || len(kid) != 32 {
		t.Errorf("header is %v", header)
	}
	if claims["sub"] != "spiffe://acme.example/eks/shop/orders" || claims["exp"] != float64(epoch.Add(JWTLifetime).Unix()) {
		t.Errorf("claims are %v", claims)
	}
	for _, audience := range []string{"billing", "https://vault.example"} {
		if _, err := f.validate(svid.Token(), audience); err != nil {
			t.Errorf("for %s: %v", audience, err)
		}
	}
	if _, err := f.validate(svid.Token(), "orders"); err == nil {
		t.Error("it is good for somebody else")
	}
}

func TestJWTOfTheJournalIsTheOneReleased(t *testing.T) {
	f := newFixture(t)
	f.advance(t, nil)
	f.entries(t)
	svid := mustSignJWT(t, f, "/a", "billing", "x")
	entries := f.entries(t)
	if len(entries) != 1 {
		t.Fatalf("%d entries", len(entries))
	}
	e := entries[0]
	if e.Kind != JWTEntry || `"`+e.Serial+`"` != string(svid.Claim("jti")) || e.Issuer != svid.KeyID() || e.Audience != "billing x" || e.Rule != "pods" || e.Revision != 7 ||
		!e.NotAfter.Equal(epoch.Add(JWTLifetime)) || e.ID != svid.ID.String() {
		t.Errorf("the journal has %+v", e)
	}
	if event := e.event(); event.Facts["token"] != "jwt" || event.Facts["audience"] != "billing x" {
		t.Errorf("the audit log will have %+v", event)
	}
}

func TestJWTThatFailsTheLintStays(t *testing.T) {
	f := newFixture(t)
	f.advance(t, nil)
	good := f.encode
	for name, bad := range map[string]func(jwtKey, jwtClaims) (string, error){
		"other subject":   func(k jwtKey, c jwtClaims) (string, error) { c.Subject += "x"; return good(k, c) },
		"root subject":    func(k jwtKey, c jwtClaims) (string, error) { c.Subject = "spiffe://acme.example"; return good(k, c) },
		"more audience":   func(k jwtKey, c jwtClaims) (string, error) { c.Audience = append(c.Audience, "x"); return good(k, c) },
		"other audience":  func(k jwtKey, c jwtClaims) (string, error) { c.Audience = []string{"x"}; return good(k, c) },
		"longer life":     func(k jwtKey, c jwtClaims) (string, error) { c.Expiry++; return good(k, c) },
		"other beginning": func(k jwtKey, c jwtClaims) (string, error) { c.IssuedAt--; return good(k, c) },
		"other jti":       func(k jwtKey, c jwtClaims) (string, error) { c.ID = "0" + c.ID[1:] + "0"; return good(k, c) },
		"key unpublished": func(k jwtKey, c jwtClaims) (string, error) {
			k.header = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","kid":"x","typ":"JWT"}`))
			return good(k, c)
		},
		"not a token": func(jwtKey, jwtClaims) (string, error) { return "x", nil },
		"no token":    func(jwtKey, jwtClaims) (string, error) { return "", errors.New("broken") },
	} {
		f.encode = bad
		f.entries(t)
		result := f.SignJWTs(t.Context(), []JWTRequest{jwtRequest(t, "/a", "billing")})[0]
		if result.Err == nil || result.SVID != nil {
			t.Errorf("%s: it was released", name)
		}
		entries := f.entries(t)
		if len(entries) != 2 || entries[1].Kind != VoidEntry || entries[0].Serial != entries[1].Serial {
			t.Errorf("%s: the journal has %+v", name, entries)
		}
	}
}

func TestJWTRequestsThatAreRefused(t *testing.T) {
	f := newFixture(t)
	if err := f.SignJWTs(t.Context(), []JWTRequest{jwtRequest(t, "/a", "x")})[0].Err; err == nil {
		t.Error("signed without a key")
	}
	f.advance(t, nil)
	other, err := spiffe.ParseID("spiffe://other.example/a")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*JWTRequest){
		"other trust domain": func(r *JWTRequest) { r.ID = other },
		"no path":            func(r *JWTRequest) { r.ID = f.config.TrustDomain.ID() },
		"zero ID":            func(r *JWTRequest) { r.ID = spiffe.ID{} },
		"no audience":        func(r *JWTRequest) { r.Audience = nil },
		"short ttl":          func(r *JWTRequest) { r.TTL = time.Second },
		"long rule":          func(r *JWTRequest) { r.Rule = strings.Repeat("r", 257) },
	} {
		r := jwtRequest(t, "/a", "x")
		change(&r)
		results := f.SignJWTs(t.Context(), []JWTRequest{r, jwtRequest(t, "/b", "x")})
		if !fault.Is(results[0].Err, fault.Invalid) || results[1].Err != nil {
			t.Errorf("%s: got %v and %v", name, results[0].Err, results[1].Err)
		}
	}
	r := jwtRequest(t, "/a", "x")
	r.TTL = time.Minute
	if got := f.SignJWTs(t.Context(), []JWTRequest{r})[0].SVID.Expiry; !got.Equal(epoch.Add(time.Minute)) {
		t.Errorf("a rule of one minute gives a token until %s", got)
	}
	r.TTL = time.Hour
	if got := f.SignJWTs(t.Context(), []JWTRequest{r})[0].SVID.Expiry; !got.Equal(epoch.Add(JWTLifetime)) {
		t.Errorf("a rule of one hour gives a token until %s", got)
	}
	f.clock.move(-time.Hour)
	if err := f.SignJWTs(t.Context(), []JWTRequest{r})[0].Err; err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("with a clock that went back: %v", err)
	}
}

// The journal refuses: nothing is signed.
func TestJWTNeedsTheJournal(t *testing.T) {
	f := newFixture(t)
	f.advance(t, nil)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f.encode = func(jwtKey, jwtClaims) (string, error) {
		t.Error("signed")
		return "", nil
	}
	if err := f.SignJWTs(context.Background(), []JWTRequest{jwtRequest(t, "/a", "x")})[0].Err; refusedBy(err) != refusedJournal {
		t.Errorf("got %v", err)
	}
}

// Rule 113: a key is published an hour, twelve refresh hints, before it signs, and goes
// when no token of it can be about.
func TestJWTRingByAge(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	first := mustSignJWT(t, f, "/a", "x").KeyID()
	start := f.clock.Now()
	seen := map[string]bool{first: true}
	current, changes := first, 0
	sequence := f.Bundle().Sequence()
	for f.clock.Now().Before(start.Add(10 * jwtPeriod)) {
		f.clock.move(20 * time.Minute)
		before := f.Bundle()
		ring = f.advance(t, ring)
		after := f.Bundle()
		if n := len(after.JWTKeys()); n < 1 || n > maxJWTKeys {
			t.Fatalf("%d keys", n)
		}
		if !after.Equal(before) && after.Sequence() <= sequence {
			t.Fatalf("sequence stays at %d", after.Sequence())
		}
		sequence = after.Sequence()
		svid := mustSignJWT(t, f, "/a", "x")
		if svid.KeyID() == current {
			continue
		}
		// Published before: who holds the bundle of then knows the key.
		if _, ok := before.JWTKey(svid.KeyID()); !ok || seen[svid.KeyID()] {
			t.Fatalf("key %s signs: published before %t, used before %t", svid.KeyID(), ok, seen[svid.KeyID()])
		}
		if _, ok := after.JWTKey(current); !ok {
			t.Fatal("the key of yesterday is gone with tokens about")
		}
		current, seen[svid.KeyID()] = svid.KeyID(), true
		changes++
	}
	if changes != 10 && changes != 9 {
		t.Errorf("the key changed %d times in ten days", changes)
	}
	if _, ok := f.Bundle().JWTKey(first); ok {
		t.Error("the first key is still there")
	}
}

// A token made just before the change of keys is good as long as it says.
func TestTokensOutliveTheirKeysTurn(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	f.clock.move(jwtPeriod - jwtLead)
	ring = f.advance(t, ring)
	f.clock.move(jwtLead - time.Second)
	svid := mustSignJWT(t, f, "/a", "x")
	for range 5 {
		f.clock.move(time.Minute)
		ring = f.advance(t, ring)
		if _, err := f.validate(svid.Token(), "x"); err != nil {
			t.Fatalf("at %s: %v", f.clock.Now(), err)
		}
	}
	if mustSignJWT(t, f, "/a", "x").KeyID() == svid.KeyID() {
		t.Error("the key has not changed")
	}
}

// A trust domain that was off for a week publishes its next key before use.
func TestJWTRingAfterALongSleep(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	old := mustSignJWT(t, f, "/a", "x").KeyID()
	f.clock.move(7 * jwtPeriod)
	f.start(t) // issues with a fresh issuing CA
	if err := f.UseJWTRing(ring); err != nil {
		t.Fatal(err)
	}
	ring = f.advance(t, ring)
	if got := mustSignJWT(t, f, "/a", "x").KeyID(); got != old || len(f.Bundle().JWTKeys()) != 2 {
		t.Errorf("%s signs at once, with %d keys published", got, len(f.Bundle().JWTKeys()))
	}
	f.clock.move(jwtLead)
	f.advance(t, ring)
	if got := mustSignJWT(t, f, "/a", "x").KeyID(); got == old {
		t.Error("the old key signs on")
	}
}

func TestJWTRingSurvivesARestart(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	svid, bundle := mustSignJWT(t, f, "/a", "x"), f.Bundle()
	f.start(t)
	if err := f.UseJWTRing(ring); err != nil {
		t.Fatal(err)
	}
	if !f.Bundle().Equal(bundle) || mustSignJWT(t, f, "/a", "x").KeyID() != svid.KeyID() {
		t.Error("after a restart the keys are others")
	}
}

func TestJWTRingThatIsRefused(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	f.clock.move(jwtPeriod)
	later := f.advance(t, ring)
	kek, err := keys.FileKEK(t.TempDir() + "/kek")
	if err != nil {
		t.Fatal(err)
	}
	changed := func(change func(*storedJWTRing)) []byte {
		r, err := parseJWTRing(later, f.config.TrustDomain)
		if err != nil {
			t.Fatal(err)
		}
		r.Sequence++
		change(&r)
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	foreign, err := AdvanceJWTRing(nil, JWTRingConfig{TrustDomain: f.config.TrustDomain, KEK: kek, Now: epoch})
	if err != nil {
		t.Fatal(err)
	}
	before := f.Bundle()
	for name, bad := range map[string][]byte{
		"older":                ring,
		"nothing":              nil,
		"no JSON":              []byte("x"),
		"too large":            []byte(strings.Repeat(" ", maxJWTRingBytes+1)),
		"other version":        changed(func(r *storedJWTRing) { r.Version = 9 }),
		"other trust domain":   changed(func(r *storedJWTRing) { r.TrustDomain = "other.example" }),
		"no keys":              changed(func(r *storedJWTRing) { r.Keys = nil }),
		"four keys":            changed(func(r *storedJWTRing) { r.Keys = append(r.Keys, r.Keys...) }),
		"wrong order":          changed(func(r *storedJWTRing) { r.Keys[0], r.Keys[1] = r.Keys[1], r.Keys[0] }),
		"kids exchanged":       changed(func(r *storedJWTRing) { r.Keys[1].ID = strings.Repeat("0", 32) }),
		"public key exchanged": changed(func(r *storedJWTRing) { r.Keys[1].Public = r.Keys[0].Public; r.Keys[1].ID += "x" }),
		"sealed by another":    foreign.Ring,
		"unknown algorithm":    changed(func(r *storedJWTRing) { r.Keys[1].Algorithm = "HS256" }),
		"two that sign":        changed(func(r *storedJWTRing) { r.Keys[1].SignsFrom = r.Keys[0].SignsFrom }),
	} {
		if err := f.UseJWTRing(bad); err == nil {
			t.Errorf("%s: the ring is used", name)
		}
	}
	if !f.Bundle().Equal(before) {
		t.Error("a refused ring has changed the bundle")
	}
	mustSignJWT(t, f, "/a", "x")
}
