package spiffe_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

// validates wants a token to be accepted.
func validates(t *testing.T, f *forge, token string) *spiffe.JWTSVID {
	t.Helper()
	svid, err := spiffe.ValidateJWT(token, f.check())
	if err != nil {
		t.Fatalf("a lawful token: %v", err)
	}
	return svid
}

// refusesJWT wants a token to be refused for a reason.
func refusesJWT(t *testing.T, f *forge, why string, tokens ...string) {
	t.Helper()
	for _, token := range tokens {
		if svid, err := spiffe.ValidateJWT(token, f.check()); err == nil || svid != nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%.80s: got %v, %v, want an error with %q", token, svid, err, why)
		}
	}
}

func TestLawfulTokens(t *testing.T) {
	f := newForge(t, epoch)
	for _, token := range lawful(f) {
		svid := validates(t, f, token)
		if svid.ID.String() != "spiffe://acme.example/web" || svid.Token() != token || !slices.Contains(svid.Audience, "orders") {
			t.Errorf("got %s for %v", svid.ID, svid.Audience)
		}
	}
	svid := validates(t, f, f.good(`"n":12345678901234567890`))
	if got := svid.Claims()["n"]; got != json.Number("12345678901234567890") {
		t.Errorf("a large number is read as %v", got)
	}
	if !svid.Expiry.Equal(epoch.Add(300*time.Second)) || !svid.IssuedAt.Equal(epoch) || svid.KeyID() != "p256" {
		t.Errorf("got %s, %s, %q", svid.Expiry, svid.IssuedAt, svid.KeyID())
	}
}

func TestRule34CompactOnly(t *testing.T) {
	f := newForge(t, epoch)
	p := strings.Split(f.good(), ".")
	refusesJWT(t, f, "three parts", fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, p[0], p[1], p[2]), p[0]+"."+p[1])
}

func TestRule35HeaderHoldsThreeNames(t *testing.T) {
	f := newForge(t, epoch)
	refusesJWT(t, f, "all there may be", f.headed(`{"alg":"ES256","kid":"p256","x":1}`))
	validates(t, f, f.headed(`{"alg":"ES256","kid":"p256","typ":"JWT"}`))
}

func TestRule36NineAlgorithms(t *testing.T) {
	f := newForge(t, epoch)
	for _, alg := range []string{"none", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "RS1", "PS1"} {
		// Before processing: a token with such an alg is refused as it is parsed.
		if _, err := spiffe.ParseJWT(f.headed(headerOf(alg, "p256"))); err == nil || !strings.Contains(err.Error(), "nine allowed") {
			t.Errorf("alg %s: got %v", alg, err)
		}
	}
}

// Rule 37: kid is optional to issue; like the peer libraries we need it.
func TestRule37KeyIsFoundByKidAlone(t *testing.T) {
	f := newForge(t, epoch)
	refusesJWT(t, f, "kid is not", f.headed(`{"alg":"ES256"}`))
	refusesJWT(t, f, "has no key", f.headed(headerOf("ES256", "p2566")))
}

func TestRule38Typ(t *testing.T) {
	f := newForge(t, epoch)
	for _, typ := range []string{"JWT", "JOSE"} {
		validates(t, f, f.headed(fmt.Sprintf(`{"alg":"ES256","kid":"p256","typ":%q}`, typ)))
	}
	validates(t, f, f.headed(`{"alg":"ES256","kid":"p256"}`))
	for _, typ := range []string{"jwt", "jose", "wit+jwt", "at+jwt", "application/jwt", ""} {
		refusesJWT(t, f, "typ", f.headed(fmt.Sprintf(`{"alg":"ES256","kid":"p256","typ":%q}`, typ)))
	}
}

// Rule 60: a WIT-SVID is no JWT-SVID, even if it had an audience.
func TestRule60WITIsNoJWT(t *testing.T) {
	f := newForge(t, epoch)
	refusesJWT(t, f, "typ", f.headed(`{"alg":"ES256","kid":"p256","typ":"wit+jwt"}`))
	refusesJWT(t, f, "aud is not", f.good(`"aud":`, `"cnf":{"jwk":{}}`))
}

func TestRule39Subject(t *testing.T) {
	f := newForge(t, epoch)
	refusesJWT(t, f, "sub", f.good(`"sub":`), f.good(`"sub":"web"`), f.good(`"sub":"spiffe://acme.example"`))
}

func TestRule40Audience(t *testing.T) {
	f := newForge(t, epoch)
	refusesJWT(t, f, "aud is not", f.good(`"aud":`), f.good(`"aud":[]`))
	refusesJWT(t, f, "not for", f.good(`"aud":"billing"`))
	validates(t, f, f.good(`"aud":"orders"`))
	check := f.check()
	check.Audiences = []string{"web", "billing"}
	if _, err := spiffe.ValidateJWT(f.good(`"aud":["billing"]`), check); err != nil {
		t.Errorf("one of several own names: %v", err)
	}
}

func TestRule41Expiry(t *testing.T) {
	f := newForge(t, epoch)
	leeway := int64(spiffe.JWTLeeway / time.Second)
	refusesJWT(t, f, "exp is missing", f.good(`"exp":`))
	refusesJWT(t, f, "ended", f.good(fmt.Sprintf(`"exp":%d`, f.in(-leeway))))
	validates(t, f, f.good(fmt.Sprintf(`"exp":%d`, f.in(1-leeway))))
	validates(t, f, f.good(fmt.Sprintf(`"nbf":%d`, f.in(leeway))))
	refusesJWT(t, f, "does not begin", f.good(fmt.Sprintf(`"nbf":%d`, f.in(leeway+1))))
	validates(t, f, f.good(fmt.Sprintf(`"iat":%d`, f.in(leeway))))
	refusesJWT(t, f, "to come", f.good(fmt.Sprintf(`"iat":%d`, f.in(leeway+1))))
	check := f.check()
	check.MaxLifetime = 299 * time.Second
	if _, err := spiffe.ValidateJWT(f.good(), check); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a token of 300 s where 299 s are allowed: %v", err)
	}
}

func TestRule44NoKeysNoJWT(t *testing.T) {
	f := newForge(t, epoch)
	refusesJWT(t, f, "no key for JWT-SVIDs", f.good(`"sub":"spiffe://x509.only/web"`))
}

// Rule 45: jti is not tracked, so a token counts as often as it is shown.
func TestRule45NoReplayMemory(t *testing.T) {
	f := newForge(t, epoch)
	token := f.good(`"jti":"1"`)
	validates(t, f, token)
	validates(t, f, token)
}

// T27: a kid is looked up within the trust domain of the subject.
func TestKidOfTwoTrustDomains(t *testing.T) {
	f := newForge(t, epoch)
	token := f.signed(headerOf("ES256", "shared"), f.claims(), "ES256", "shared")
	validates(t, f, token)
	refusesJWT(t, f, "signature", f.signed(headerOf("ES256", "shared"), f.claims(`"sub":"spiffe://other.example/web"`), "ES256", "shared"))
	check := f.check()
	check.Bundle = func(spiffe.TrustDomain) (*spiffe.Bundle, bool) {
		return f.bundles[mustTD(t, "acme.example")], true
	}
	if _, err := spiffe.ValidateJWT(f.good(`"sub":"spiffe://other.example/web"`), check); err == nil || !strings.Contains(err.Error(), "that of trust domain acme.example") {
		t.Errorf("the bundle of another trust domain: %v", err)
	}
}

func TestCheckIsWhole(t *testing.T) {
	f := newForge(t, epoch)
	for name, change := range map[string]func(*spiffe.JWTCheck){
		"audience": func(c *spiffe.JWTCheck) { c.Audiences = nil },
		"bundle":   func(c *spiffe.JWTCheck) { c.Bundle = nil },
		"time":     func(c *spiffe.JWTCheck) { c.Now = time.Time{} },
	} {
		check := f.check()
		change(&check)
		if _, err := spiffe.ValidateJWT(f.good(), check); err == nil {
			t.Errorf("a check without %s accepts", name)
		}
	}
	nobody := f.check()
	nobody.Bundle = func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return nil, true }
	if _, err := spiffe.ValidateJWT(f.good(), nobody); err == nil {
		t.Error("a nil bundle accepts")
	}
}

func TestTokensStayOutOfSight(t *testing.T) {
	f := newForge(t, epoch)
	svid := validates(t, f, f.good())
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("seen", "svid", svid, "again", fmt.Sprintf("%v %+v %#v %s", svid, svid, svid, svid))
	for _, part := range strings.Split(svid.Token(), ".") {
		if strings.Contains(log.String(), part) {
			t.Errorf("the log holds a part of the token: %s", log.String())
		}
	}
	if !strings.Contains(log.String(), "spiffe://acme.example/web") {
		t.Errorf("the log does not say whose token it was: %s", log.String())
	}
}

func BenchmarkValidateJWT(b *testing.B) {
	f := newForge(b, epoch)
	token, check := f.good(), f.check()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spiffe.ValidateJWT(token, check); err != nil {
			b.Fatal(err)
		}
	}
}
