package spiffe_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

func TestRule46WITIsCompactAndNamesItsKey(t *testing.T) {
	f := newWITForge(t)
	f.accepts(f.lawful())
	p := strings.Split(f.lawful(), ".")
	f.refuses("three parts", fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, p[0], p[1], p[2]), p[0]+"."+p[1])
	f.refuses("kid is not", f.titled(`{"alg":"ES256","typ":"wit+jwt"}`), f.titled(witHeader("ES256", "")))
	f.refuses("has no key", f.titled(witHeader("ES256", "WIT")), f.titled(witHeader("ES256", "wit ")))
	f.refuses("not one for ES256", f.titled(witHeader("ES256", "wit384")), f.titled(witHeader("ES256", "witrsa")))
}

func TestRule47WITTyp(t *testing.T) {
	f := newWITForge(t)
	for _, typ := range []string{"JWT", "JOSE", "jwt", "WIT+JWT", "application/wit+jwt", "wpt+jwt", ""} {
		f.refuses("typ", f.titled(fmt.Sprintf(`{"alg":"ES256","kid":"wit","typ":%q}`, typ)))
	}
	f.refuses("typ", f.titled(`{"alg":"ES256","kid":"wit"}`), f.titled(`{"alg":"ES256","kid":"wit","typ":null}`))
}

func TestRule48WITAlgorithms(t *testing.T) {
	f := newWITForge(t)
	for _, alg := range []string{"none", "None", "HS256", "HS512", "EdDSA", "ES256K", "es256", ""} {
		if _, err := spiffe.ParseWIT(f.titled(witHeader(alg, "wit"))); err == nil || !strings.Contains(err.Error(), "nine allowed") {
			t.Errorf("alg %s: got %v", alg, err)
		}
	}
	f.accepts(f.signed(witHeader("ES384", "wit384"), f.wits(), "ES384", "wit384"))
	f.accepts(f.signed(witHeader("PS256", "witrsa"), f.wits(), "PS256", "witrsa"))
	f.refuses("signature", f.signed(witHeader("RS256", "witrsa"), f.wits(), "PS256", "witrsa"))
}

// Rule 49: what a header says besides is ignored, a key in it first of all.
func TestRule49WITHeaderBesides(t *testing.T) {
	f := newWITForge(t)
	stranger := fmt.Sprintf(`{"alg":"ES256","kid":"wit","typ":"wit+jwt","jwk":%s,"jku":"http://127.0.0.1:1/","x":[1]}`, f.jwk())
	f.accepts(f.titled(stranger))
	f.keys["mine"] = f.holder
	f.refuses("signature", f.signed(stranger, f.wits(), "ES256", "mine"))
	f.refuses("critical", f.titled(`{"alg":"ES256","kid":"wit","typ":"wit+jwt","crit":["x"],"x":1}`), f.titled(`{"alg":"ES256","kid":"wit","typ":"wit+jwt","crit":[]}`))
	f.refuses("twice", f.titled(`{"alg":"ES256","alg":"none","kid":"wit","typ":"wit+jwt"}`))
	f.refuses("b64", f.titled(`{"alg":"ES256","kid":"wit","typ":"wit+jwt","b64":false}`))
}

func TestRule50WITSubject(t *testing.T) {
	f := newWITForge(t)
	if id := f.accepts(f.lawful()).ID.String(); id != "spiffe://acme.example/web" {
		t.Errorf("it is %s", id)
	}
	f.refuses("sub", f.lawful(`"sub":`), f.lawful(`"sub":"web"`), f.lawful(`"sub":"wimse://acme.example/web"`), f.lawful(`"sub":["spiffe://acme.example/web"]`))
	f.refuses("no path", f.lawful(`"sub":"spiffe://acme.example"`))
	f.refuses("no bundle", f.lawful(`"sub":"spiffe://nobody.example/web"`))
	f.refuses("signature", f.lawful(`"sub":"spiffe://other.example/web"`)) // whose key has the same kid
}

func TestRule51WITConfirmation(t *testing.T) {
	f := newWITForge(t)
	f.refuses("cnf is missing", f.lawful(`"cnf":`))
	f.refuses("cnf", f.bound(`null`), f.bound(`"x"`), f.bound(`[]`), f.bound(`{}`), f.bound(`{"jwk":null}`), f.bound(`{"jwk":"x"}`), f.bound(`{"jwk":{}}`))
	f.refuses("all that counts", f.bound(`{"jwk":`+f.jwk()+`,"jku":"http://127.0.0.1:1/"}`), f.bound(`{"jwk":`+f.jwk()+`,"kid":"other"}`), f.bound(`{"x5t#S256":"x"}`))
	for _, alg := range []string{`"none"`, `"HS256"`, `"EdDSA"`, `"es256"`, `null`, `["ES256"]`} {
		f.refuses("nine allowed", f.withJWK(`"alg":"ES256"`, `"alg":`+alg))
	}
	f.refuses("nine allowed", f.withJWK(`"alg":"ES256",`, ``))
	f.refuses("not one for", f.withJWK(`"alg":"ES256"`, `"alg":"ES384"`), f.withJWK(`"alg":"ES256"`, `"alg":"RS256"`))
	f.refuses("private", f.withJWK(`"kty":"EC"`, `"kty":"EC","d":"AA"`))
	f.refuses("symmetric", f.bound(`{"jwk":{"kty":"oct","alg":"HS256"}}`))
	f.refuses("for signatures", f.withJWK(`"kty":"EC"`, `"kty":"EC","use":"enc"`))
	f.refuses("coordinate", f.withJWK(`"x":"`, `"x":"AA`))
	if alg := f.accepts(f.lawful()).ProofAlgorithm(); alg != "ES256" {
		t.Errorf("it proves by %s", alg)
	}
}

// Rule 52: jti may be there or not, and the same token counts as often as it is
// shown: what must not come twice is the proof.
func TestRule52WITJTI(t *testing.T) {
	f := newWITForge(t)
	token := f.lawful(`"jti":"once"`)
	f.accepts(token)
	f.accepts(token)
	f.accepts(f.lawful())
	f.refuses("jti", f.lawful(`"jti":1`), f.lawful(`"jti":""`), f.lawful(`"jti":"`+strings.Repeat("x", 2000)+`"`))
}

func TestRule53WITExpiry(t *testing.T) {
	f := newWITForge(t)
	leeway := int64(spiffe.JWTLeeway / time.Second)
	f.refuses("exp is missing", f.lawful(`"exp":`))
	f.refuses("whole seconds", f.lawful(`"exp":1.5`), f.lawful(`"exp":"1"`), f.lawful(`"exp":-1`))
	f.refuses("ended", f.lawful(fmt.Sprintf(`"exp":%d`, f.in(-leeway))))
	f.accepts(f.lawful(fmt.Sprintf(`"exp":%d`, f.in(1-leeway))))
}

func TestRule54WITNotBeforeAndLifespan(t *testing.T) {
	f := newWITForge(t)
	leeway := int64(spiffe.JWTLeeway / time.Second)
	f.accepts(f.lawful(fmt.Sprintf(`"nbf":%d`, f.in(leeway))))
	f.refuses("does not begin", f.lawful(fmt.Sprintf(`"nbf":%d`, f.in(leeway+1))))
	f.refuses("longer than", f.lawful(fmt.Sprintf(`"exp":%d`, f.in(25*3600))), f.lawful(fmt.Sprintf(`"nbf":%d`, f.in(-25*3600))))
	check := f.witCheck()
	check.MaxLifetime = time.Minute
	if _, err := spiffe.ValidateWIT(f.lawful(), check); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("five minutes where one is allowed: %v", err)
	}
}

// Rule 55: iat never limits how early a token counts.
func TestRule55WITIssuedAt(t *testing.T) {
	f := newWITForge(t)
	svid := f.accepts(f.lawful(fmt.Sprintf(`"iat":%d`, f.in(3600))))
	if !svid.IssuedAt.Equal(epoch.Add(time.Hour)) {
		t.Errorf("iat is read as %s", svid.IssuedAt)
	}
	f.accepts(f.lawful(`"iat":`))
}

func TestRule57WITHasNoAudience(t *testing.T) {
	f := newWITForge(t)
	f.refuses("has aud", f.lawful(`"aud":"orders"`), f.lawful(`"aud":["orders"]`), f.lawful(`"aud":[]`), f.lawful(`"aud":null`))
}

func TestRule58WITClaimsBesides(t *testing.T) {
	f := newWITForge(t)
	svid := f.accepts(f.lawful(`"iss":"https://issuer.example"`, `"x":{"y":[1,2]}`))
	if string(svid.Claim("x")) != `{"y":[1,2]}` || svid.ClaimNames()[0] != "cnf" {
		t.Errorf("claims are %v", svid.ClaimNames())
	}
}

// Rule 59: the token alone says nothing; only a signature of its key does.
func TestRule59ProofOfTheKey(t *testing.T) {
	f := newWITForge(t)
	svid := f.accepts(f.lawful())
	if _, err := svid.Prove([]byte("x")); err == nil {
		t.Error("whoever has the token alone can prove")
	}
	own, err := svid.WithKey(f.key)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := own.Prove([]byte("this request"))
	if err != nil {
		t.Fatal(err)
	}
	if err := svid.VerifyProof([]byte("this request"), proof); err != nil {
		t.Errorf("a good proof: %v", err)
	}
	wrong, err := spiffe.NewProofKey(mustECDSA(t, elliptic.P256()).(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svid.WithKey(wrong); err == nil {
		t.Error("another key is taken for the token's")
	}
	for name, c := range map[string]struct{ content, proof []byte }{
		"other content": {[]byte("that request"), proof}, "no proof": {[]byte("this request"), nil},
		"zeros": {[]byte("this request"), make([]byte, 64)}, "short": {[]byte("this request"), proof[:63]},
		"long": {[]byte("this request"), append(proof[:64:64], 0)},
	} {
		if svid.VerifyProof(c.content, c.proof) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Rule 60: a WIT-SVID is no JWT-SVID and the other way round, even if one key
// had signed both.
func TestRule60NeitherIsTheOther(t *testing.T) {
	f := newWITForge(t)
	refusesJWT(t, f.forge, "typ", f.lawful(), f.lawful(`"aud":["orders"]`))
	f.refuses("typ", f.good())
	f.refuses("has no key", f.signed(witHeader("ES256", "p256"), f.wits(), "ES256", "p256"))
	refusesJWT(t, f.forge, "has no key", f.signed(headerOf("ES256", "wit"), f.claims(), "ES256", "wit"))
}

// Rule 63, 91, 97: keys for WIT-SVIDs by their use, and a kid once in a bundle.
func TestRule63KeysInTheBundle(t *testing.T) {
	f := newWITForge(t)
	td := mustTD(t, "acme.example")
	b := f.bundles[td]
	if _, err := b.WithWITKeys(spiffe.JWTKey{ID: "p256", Public: f.keys["wit"].Public()}); err == nil || !strings.Contains(err.Error(), "two keys") {
		t.Errorf("a kid for both kinds: %v", err)
	}
	if _, err := b.WithJWTKeys(spiffe.JWTKey{ID: "wit", Public: f.keys["wit"].Public()}); err == nil {
		t.Error("a kid for both kinds, the other way round")
	}
	whole, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := spiffe.ParseBundle(td, whole)
	if err != nil || !back.Equal(b) || len(back.WITKeys()) != 3 {
		t.Fatalf("%s is read as %v, %v", whole, back, err)
	}
	wit, err := b.MarshalWITKeys()
	if err != nil || strings.Contains(string(wit), "jwt-svid") || strings.Count(string(wit), `"use":"wit-svid"`) != 3 {
		t.Errorf("keys for WIT-SVIDs are %s, %v", wit, err)
	}
	if jwt, err := b.MarshalJWTKeys(); err != nil || strings.Contains(string(jwt), "wit") {
		t.Errorf("keys for JWT-SVIDs are %s, %v", jwt, err)
	}
	swapped := strings.ReplaceAll(string(whole), "wit-svid", "WIT-SVID")
	if b, err := spiffe.ParseBundle(td, []byte(swapped)); err != nil || len(b.WITKeys()) != 0 {
		t.Errorf("use in another case: %d keys, %v", len(b.WITKeys()), err)
	}
	clash := strings.Replace(string(whole), `"kid":"wit"`, `"kid":"p256"`, 1)
	if _, err := spiffe.ParseBundle(td, []byte(clash)); err == nil {
		t.Error("a document with a kid twice is read")
	}
	if f.bundles[td], err = b.WithWITKeys(); err != nil {
		t.Fatal(err)
	}
	f.refuses("no key for WIT-SVIDs", f.lawful())
}

// Rule 97: a proof key goes out as a private JWK and comes back the same.
func TestRule97ProofKeyAsJWK(t *testing.T) {
	f := newWITForge(t)
	svid := f.accepts(f.lawful())
	text, err := f.key.MarshalJWK()
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]string
	if err := json.Unmarshal(text, &object); err != nil || object["kty"] != "EC" || object["crv"] != "P-256" || object["alg"] != "ES256" || object["d"] == "" {
		t.Fatalf("it is %v, %v", object, err)
	}
	key, err := spiffe.ParseProofKey(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svid.WithKey(key); err != nil {
		t.Error(err)
	}
	other := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	for name, bad := range map[string]string{
		"no d": strings.Replace(string(text), `"d"`, `"e"`, 1), "d of another": strings.Replace(string(text), object["d"], other, 1),
		"d twice": strings.Replace(string(text), `"d"`, `"d":"AA","d"`, 1), "nothing": "", "a list": "[]", "huge": `{"x":"` + strings.Repeat("x", 20<<10) + `"}`,
		"other curve": strings.Replace(string(text), "P-256", "P-384", 1), "other alg": strings.Replace(string(text), "ES256", "EdDSA", 1),
	} {
		if _, err := spiffe.ParseProofKey([]byte(bad)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestWITCheckIsWhole(t *testing.T) {
	f := newWITForge(t)
	if _, err := spiffe.ValidateWIT(f.lawful(), spiffe.WITCheck{Now: epoch}); err == nil {
		t.Error("no bundle, accepted")
	}
	if _, err := spiffe.ValidateWIT(f.lawful(), spiffe.WITCheck{Bundle: f.bundles.Bundle}); err == nil {
		t.Error("no time, accepted")
	}
	foreign := func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return f.bundles[mustTD(t, "acme.example")], true }
	if _, err := spiffe.ValidateWIT(f.lawful(`"sub":"spiffe://other.example/web"`), spiffe.WITCheck{Bundle: foreign, Now: epoch}); err == nil {
		t.Error("the bundle of another trust domain, accepted")
	}
}

func TestProofKeysStayOutOfSight(t *testing.T) {
	f := newWITForge(t)
	own, err := f.accepts(f.lawful()).WithKey(f.key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := f.key.MarshalJWK()
	if err != nil {
		t.Fatal(err)
	}
	var object map[string]string
	if err := json.Unmarshal(text, &object); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("seen", "svid", own, "key", f.key, "again", fmt.Sprintf("%v %+v %#v %s %x", own, f.key, f.key, own, f.key))
	if strings.Contains(log.String(), object["d"]) || strings.Contains(log.String(), own.Token()) {
		t.Errorf("the log has %s", log.String())
	}
}

// FuzzParseWIT holds what is read to its one spelling, and the key in it to one
// that verifies.
func FuzzParseWIT(f *testing.F) {
	forge := newWITForge(f)
	for _, token := range []string{forge.lawful(), forge.good(), forge.lawful(`"aud":"x"`), forge.bound(`{"jwk":{}}`), forge.titled(`{}`), "a.b.c", ""} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		svid, err := spiffe.ParseWIT(token)
		if err != nil {
			return
		}
		if svid.ID.Path() == "" || svid.Expiry.IsZero() || svid.KeyID() == "" || svid.Token() != token || svid.PublicKey() == nil || len(svid.ProofAlgorithm()) != 5 {
			t.Fatalf("%q is read as %s until %s", token, svid.ID, svid.Expiry)
		}
		if svid.VerifyProof([]byte(token), make([]byte, 64)) == nil {
			t.Fatalf("%q: zeros prove its key", token)
		}
	})
}

// FuzzParseProofKey holds that what is read is a key that goes out as the same.
func FuzzParseProofKey(f *testing.F) {
	forge := newWITForge(f)
	text, err := forge.key.MarshalJWK()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text))
	f.Add(forge.jwk())
	f.Add(`{"kty":"EC","crv":"P-256","alg":"ES256","x":"","y":"","d":""}`)
	f.Fuzz(func(t *testing.T, text string) {
		key, err := spiffe.ParseProofKey([]byte(text))
		if err != nil {
			return
		}
		again, err := key.MarshalJWK()
		if err != nil {
			t.Fatalf("%q goes out with %v", text, err)
		}
		back, err := spiffe.ParseProofKey(again)
		if err != nil {
			t.Fatalf("%q comes back as %s: %v", text, again, err)
		}
		if third, err := back.MarshalJWK(); err != nil || string(third) != string(again) {
			t.Fatalf("%q goes out as %s, then as %s, %v", text, again, third, err)
		}
	})
}
