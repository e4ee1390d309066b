package ca

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

// A token names an issuer where one is configured, and nowhere else.
func TestIssuerIsInTokensOnlyWhereConfigured(t *testing.T) {
	const issuer = "https://oidc.acme.example"
	f := newFixture(t, func(c *Config) { c.Issuer = issuer })
	f.advance(t, nil)
	svid := mustSignJWT(t, f, "/a", "sts.amazonaws.com")
	var got string
	if err := json.Unmarshal(svid.Claim("iss"), &got); err != nil || got != issuer {
		t.Errorf("iss is %s (%v), want %s", svid.Claim("iss"), err, issuer)
	}
	if _, err := f.validate(svid.Token(), "sts.amazonaws.com"); err != nil {
		t.Error(err)
	}
	f = newFixture(t)
	f.advance(t, nil)
	if names := mustSignJWT(t, f, "/a", "x").ClaimNames(); slices.Contains(names, "iss") {
		t.Errorf("without an issuer: %v", names)
	}
}

// What the lint is for: a token of another issuer than the configured one, or of
// one that was not asked for, never leaves.
func TestLintRefusesAnotherIssuer(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Issuer = "https://oidc.acme.example" })
	f.advance(t, nil)
	svid := mustSignJWT(t, f, "/a", "x")
	want := jwtExpectation{
		issuer: "https://oidc.acme.example", id: svid.ID, audience: svid.Audience, issuedAt: svid.IssuedAt, expiry: svid.Expiry,
		jti: strings.Trim(string(svid.Claim("jti")), `"`), keyID: svid.KeyID(), algorithm: svid.Algorithm(),
	}
	if _, err := lintJWT(svid.Token(), want); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"", "https://other.example", "https://oidc.acme.example/"} {
		changed := want
		changed.issuer = other
		if _, err := lintJWT(svid.Token(), changed); err == nil {
			t.Errorf("%q: a token of %s passed", other, want.issuer)
		}
	}
	if svid.Expiry.Sub(svid.IssuedAt) > 5*time.Minute {
		t.Errorf("lives %s", svid.Expiry.Sub(svid.IssuedAt))
	}
}
