package ca

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func withRS256(audiences ...string) func(*Config) {
	return func(c *Config) { c.RS256Audiences = audiences }
}

// Rules 35 to 41 hold for RS256 as they do for ES256, and the receiver's name
// alone decides which it is.
func TestRule36RS256ForThoseWhoReadNothingElse(t *testing.T) {
	f := newFixture(t, withRS256("sts.amazonaws.com"))
	f.advance(t, nil)
	for audience, want := range map[string]string{
		"billing": "ES256", "sts.amazonaws.com": "RS256", "billing sts.amazonaws.com": "RS256", "STS.amazonaws.com": "ES256",
	} {
		names := strings.Fields(audience)
		svid := mustSignJWT(t, f, "/a", names...)
		key, ok := f.Bundle().JWTKey(svid.KeyID())
		if svid.Algorithm() != want || !ok || key.Algorithm != want {
			t.Errorf("%s: token %s, key %s, want %s", audience, svid.Algorithm(), key.Algorithm, want)
		}
		for _, name := range names {
			if _, err := f.validate(svid.Token(), name); err != nil {
				t.Errorf("%s: %v", audience, err)
			}
		}
	}
	svid := mustSignJWT(t, f, "/a", "sts.amazonaws.com")
	key, _ := f.Bundle().JWTKey(svid.KeyID())
	public := key.Public.(*rsa.PublicKey)
	dot := strings.LastIndexByte(svid.Token(), '.')
	signature, err := base64.RawURLEncoding.DecodeString(svid.Token()[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(svid.Token()[:dot]))
	if err := rsa.VerifyPKCS1v15(public, crypto.SHA256, digest[:], signature); err != nil || public.N.BitLen() != 2048 { // RFC 7518 3.3
		t.Errorf("%d bits: %v", public.N.BitLen(), err)
	}
}

// A key is published, then known to all, and only then signs; the one before it
// goes when its last token has ended.
func TestJWTKeyGoesThroughItsPhases(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	first := mustSignJWT(t, f, "/a", "x").KeyID()
	f.clock.move(jwtPeriod - jwtLead)
	ring = f.advance(t, ring)
	if got := mustSignJWT(t, f, "/a", "x").KeyID(); got != first || len(f.Bundle().JWTKeys()) != 2 {
		t.Fatalf("a published key signs: %v, of %d keys", got != first, len(f.Bundle().JWTKeys()))
	}
	f.clock.move(jwtLead)
	f.late = []string{"n7", "n2"}
	for range 3 {
		next, err := AdvanceJWTRing(ring, f.ringConfig())
		if err != nil || next.Changed || !cmp.Equal(next.Laggards, []string{"n2", "n7"}) {
			t.Fatalf("with two nodes that lack the key: changed %v, laggards %v, %v", next.Changed, next.Laggards, err)
		}
		f.clock.move(jwtPeriod)
		f.start(t) // with an issuing CA of now
		if err := f.UseJWTRing(ring); err != nil {
			t.Fatal(err)
		}
	}
	old := mustSignJWT(t, f, "/a", "x")
	if old.KeyID() != first {
		t.Fatal("a key signs that two nodes lack")
	}
	f.late = nil
	ring = f.advance(t, ring)
	if mustSignJWT(t, f, "/a", "x").KeyID() == first {
		t.Fatal("the new key does not sign when all know it")
	}
	f.clock.move(old.Expiry.Sub(f.clock.Now()) + maxSkew - time.Second)
	ring = f.advance(t, ring)
	if _, ok := f.Bundle().JWTKey(first); !ok {
		t.Error("a key is gone while somebody's clock has a token of it valid")
	}
	f.clock.move(time.Second)
	f.advance(t, ring)
	if _, ok := f.Bundle().JWTKey(first); ok {
		t.Error("a key is there whose tokens have ended")
	}
}

// Others, who are told nothing, have two refresh hints to fetch a new key.
func TestJWTKeyWaitsForThoseWhoPoll(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	first := mustSignJWT(t, f, "/a", "x").KeyID()
	f.clock.move(2 * jwtPeriod) // the server was off
	f.start(t)
	if err := f.UseJWTRing(ring); err != nil {
		t.Fatal(err)
	}
	ring = f.advance(t, ring)
	f.clock.move(10*time.Minute - time.Second)
	ring = f.advance(t, ring)
	if mustSignJWT(t, f, "/a", "x").KeyID() != first {
		t.Error("the new key signs before two refresh hints have passed")
	}
	f.clock.move(time.Second)
	f.advance(t, ring)
	if mustSignJWT(t, f, "/a", "x").KeyID() == first {
		t.Error("the new key does not sign after two refresh hints")
	}
}

// A token that a server signs with a key after it was retired, because the news
// came late, is good for as long as it says.
func TestRetiredJWTKeyStaysForTokensSignedLate(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	f.clock.move(jwtPeriod - jwtLead)
	ring = f.advance(t, ring)
	f.clock.move(jwtLead)
	next, err := AdvanceJWTRing(ring, f.ringConfig()) // by another server: this one does not know
	if err != nil {
		t.Fatal(err)
	}
	f.clock.move(10 * time.Minute)
	late := mustSignJWT(t, f, "/a", "x")
	if err := f.UseJWTRing(next.Ring); err != nil {
		t.Fatal(err)
	}
	f.clock.move(late.Expiry.Sub(f.clock.Now()) - time.Second)
	f.advance(t, next.Ring)
	if _, err := f.validate(late.Token(), "x"); err != nil {
		t.Error(err)
	}
}

// Keys for RS256 come and go with the audiences that need them; ES256 goes on.
func TestRS256KeysComeAndGo(t *testing.T) {
	f := newFixture(t)
	ring := f.advance(t, nil)
	f.config.RS256Audiences = []string{"aws"}
	f.start(t)
	if err := f.UseJWTRing(ring); err != nil {
		t.Fatal(err)
	}
	sign := func() error { return f.SignJWTs(t.Context(), []JWTRequest{jwtRequest(t, "/a", "aws")})[0].Err }
	f.late = []string{"n1"}
	if err := sign(); refusedBy(err) != refusedIssuer {
		t.Errorf("without a key: %v", err)
	}
	ring = f.advance(t, ring)
	ring = f.advance(t, ring)
	if err := sign(); refusedBy(err) != refusedIssuer {
		t.Errorf("with a key that a node lacks: %v", err)
	}
	f.late = nil
	ring = f.advance(t, ring)
	if err := sign(); err != nil {
		t.Errorf("with a key that all know: %v", err)
	}
	es := mustSignJWT(t, f, "/a", "x")
	f.config.RS256Audiences = nil
	f.start(t)
	if err := f.UseJWTRing(ring); err != nil {
		t.Fatal(err)
	}
	ring = f.advance(t, ring)
	if n := len(f.Bundle().JWTKeys()); n != 2 {
		t.Errorf("%d keys while tokens of RS256 are about, want 2", n)
	}
	f.clock.move(JWTLifetime + maxSkew)
	f.advance(t, ring)
	if n := len(f.Bundle().JWTKeys()); n != 1 || mustSignJWT(t, f, "/a", "x").KeyID() != es.KeyID() {
		t.Errorf("%d keys are left, want the one for ES256", n)
	}
}
