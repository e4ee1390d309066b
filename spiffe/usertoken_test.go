package spiffe_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/spiffe"
)

const issuer = "https://login.example"

// userForge makes tokens of a provider by the keys of a forge.
type userForge struct {
	*forge

	ed ed25519.PrivateKey
}

func newUserForge(t testing.TB) *userForge {
	return &userForge{newForge(t, epoch), ed25519.NewKeyFromSeed([]byte("thirty-two bytes that are a seed"))}
}

// jwk is a key as providers publish it, members added as "name":value.
func (f *userForge) jwk(kid string, members ...string) string {
	parts := []string{fmt.Sprintf(`"kid":%q`, kid)}
	if kid == "" {
		parts = parts[:0]
		kid = "p256"
	}
	encode := base64.RawURLEncoding.EncodeToString
	switch key := f.keys[kid].(type) {
	case *ecdsa.PrivateKey:
		point, err := key.PublicKey.Bytes()
		if err != nil {
			f.t.Fatal(err)
		}
		half := 1 + len(point)/2
		parts = append(parts, `"kty":"EC"`, fmt.Sprintf(`"crv":%q,"x":%q,"y":%q`, key.Params().Name, encode(point[1:half]), encode(point[half:])))
	case *rsa.PrivateKey:
		parts = append(parts, `"kty":"RSA"`, fmt.Sprintf(`"n":%q,"e":"AQAB"`, encode(key.N.Bytes())))
	default:
		parts = append(parts, `"kty":"OKP","crv":"Ed25519"`, fmt.Sprintf(`"x":%q`, encode(f.ed.Public().(ed25519.PublicKey))))
	}
	return "{" + strings.Join(append(parts, members...), ",") + "}"
}

func keySet(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

func (f *userForge) set(keys ...string) *spiffe.JWKSet {
	f.t.Helper()
	s, err := spiffe.ParseJWKSet([]byte(keySet(keys...)))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *userForge) claims(members ...string) string {
	return f.forge.claims(append([]string{`"sub":"alice"`, fmt.Sprintf(`"iss":%q`, issuer)}, members...)...)
}

func (f *userForge) token(members ...string) string {
	return f.signed(headerOf("ES256", "p256"), f.claims(members...), "ES256", "p256")
}

func (f *userForge) userCheck() spiffe.UserTokenCheck {
	return spiffe.UserTokenCheck{Issuer: issuer, Audiences: []string{"orders"}, Now: f.at, Keys: f.set(f.jwk("p256"), f.jwk("rsa"), f.jwk("ed"))}
}

func wantRefusal(t *testing.T, name string, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("%s: got %v, want an error with %q", name, err, why)
	}
}

// judge reads and checks a token, as whoever gets one does.
func judge(token string, check spiffe.UserTokenCheck) error {
	t, err := spiffe.ParseUserToken(token)
	if err != nil {
		return err
	}
	return t.Check(check)
}

func TestUserTokensOfEveryAlgorithm(t *testing.T) {
	f := newUserForge(t)
	check := f.userCheck()
	check.Keys = f.set(f.jwk("p256"), f.jwk("p384"), f.jwk("p521"), f.jwk("rsa"), f.jwk("ed"))
	for alg, kid := range map[string]string{
		"ES256": "p256", "ES384": "p384", "ES512": "p521", "RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
	} {
		if err := judge(f.signed(headerOf(alg, kid), f.claims(), alg, kid), check); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
	}
	if err := judge(f.edSigned(`{"alg":"EdDSA","kid":"ed"}`), check); err != nil {
		t.Errorf("EdDSA: %v", err)
	}
	for _, header := range []string{`{"alg":"ES256","kid":"p256"}`, `{"alg":"ES256","kid":"p256","typ":"at+jwt","x5t":"abc"}`, `{"alg":"ES256","kid":"p256","typ":"application/at+JWT"}`} {
		if err := judge(f.signed(header, f.claims(), "ES256", "p256"), check); err != nil {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func (f *userForge) edSigned(header string) string {
	content := b64url(header) + "." + b64url(f.claims())
	return content + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(f.ed, []byte(content)))
}

// A token without kid is checked by the only key for its algorithm, by none if
// there are two.
func TestUserTokenThatNamesNoKey(t *testing.T) {
	f := newUserForge(t)
	token := f.signed(`{"alg":"ES256"}`, f.claims(), "ES256", "p256")
	check := f.userCheck()
	for name, keys := range map[string]*spiffe.JWKSet{"named": f.set(f.jwk("p256"), f.jwk("rsa"), f.jwk("p384")), "unnamed": f.set(f.jwk(""))} {
		check.Keys = keys
		if err := judge(token, check); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	check.Keys = f.set(f.jwk("p256"), f.jwk("shared"))
	wantRefusal(t, "", judge(token, check), "names no key, and 2 are for ES256")
}

// Attack 45: tokens of one issuer under the keys of another.
func TestAttack45IssuerConfusion(t *testing.T) {
	f := newUserForge(t)
	for name, c := range map[string]struct {
		token, why string
	}{
		"signed by the key of another issuer":           {f.signed(headerOf("ES256", "p256"), f.claims(), "ES256", "stranger"), "not that of"},
		"names the key of another issuer":               {f.signed(headerOf("ES256", "stranger"), f.claims(), "ES256", "stranger"), "no key of this kid"},
		"issuer with a slash":                           {f.token(`"iss":"https://login.example/"`), "is of issuer"},
		"issuer in upper case":                          {f.token(`"iss":"https://LOGIN.example"`), "is of issuer"},
		"issuer with a port":                            {f.token(`"iss":"https://login.example:443"`), "is of issuer"},
		"issuer that begins alike":                      {f.token(`"iss":"https://login.example.evil"`), "is of issuer"},
		"issuer in a list":                              {f.token(`"iss":["https://login.example"]`), "iss is missing or not a text"},
		"two issuers":                                   {f.token(`"x":1,"iss":"https://evil.example"`), "occurs twice"},
		"no issuer":                                     {f.token(`"iss":`), "iss is missing"},
		"the right key, said to be for another of alg.": {f.signed(headerOf("RS256", "p256"), f.claims(), "ES256", "p256"), "not for RS256"},
	} {
		wantRefusal(t, name, judge(c.token, f.userCheck()), c.why)
	}
	_, err := spiffe.ParseJWKSet([]byte(keySet(f.jwk("p256"), strings.Replace(f.jwk("shared"), "shared", "p256", 1))))
	wantRefusal(t, "", err, `two keys have the kid "p256"`)
}

// Attack 46: algorithms and headers that have fooled verifiers.
func TestAttack46AlgorithmsAndHeaders(t *testing.T) {
	f := newUserForge(t)
	check := f.userCheck()
	public, _ := x509.MarshalPKIXPublicKey(f.keys["rsa"].Public())
	nested := b64url(f.token())
	tokens := map[string]struct{ token, why string }{
		"HS256 under the RSA key": {f.mac(public, "rsa"), "not one of those allowed"},
		"none with a signature":   {f.signed(headerOf("none", "p256"), f.claims(), "ES256", "p256"), "not one of those allowed"},
		"none":                    {unsigned(headerOf("none", "p256"), f.claims(), ""), "is empty"},
		"ES256K":                  {f.signed(headerOf("ES256K", "p256"), f.claims(), "ES256", "p256"), "not one of those allowed"},
		"EdDSA with the EC key":   {f.signed(headerOf("EdDSA", "p256"), f.claims(), "ES256", "p256"), "not for EdDSA"},
		"ES256 with the Ed key":   {f.edSigned(`{"alg":"ES256","kid":"ed"}`), "not for ES256"},
		"nested":                  {f.signed(`{"alg":"ES256","kid":"p256","cty":"JWT"}`, nested, "ES256", "p256"), `has "cty"`},
		"payload is a token":      {f.signed(headerOf("ES256", "p256"), nested, "ES256", "p256"), "not a JSON object"},
		"logout token":            {f.signed(`{"alg":"ES256","kid":"p256","typ":"logout+jwt"}`, f.claims(), "ES256", "p256"), "typ"},
		"DPoP proof":              {f.signed(`{"alg":"ES256","kid":"p256","typ":"dpop+jwt"}`, f.claims(), "ES256", "p256"), "typ"},
	}
	for _, name := range []string{"crit", "b64", "jku", "x5u", "jwk", "x5c", "zip"} {
		value := `"https://evil.example/keys"`
		if name == "crit" {
			value = `["exp"]`
		}
		header := fmt.Sprintf(`{"alg":"ES256","kid":"p256",%q:%s}`, name, value)
		tokens[name] = struct{ token, why string }{f.signed(header, f.claims(), "ES256", "p256"), `has "` + name + `"`}
	}
	for name, c := range tokens {
		wantRefusal(t, name, judge(c.token, check), c.why)
	}
	check.Algorithms = []string{"RS256"}
	wantRefusal(t, "", judge(f.token(), check), "alg ES256 is not one of RS256")
}

// Attack 46: an ECDSA signature has a twin, which says the same of the same
// claims; other forms of it are refused.
func TestAttack46MalleableSignatures(t *testing.T) {
	f := newUserForge(t)
	good, check := f.token(), f.userCheck()
	parts := strings.Split(good, ".")
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	order := elliptic.P256().Params().N
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	with := func(signature []byte) string {
		return parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(signature)
	}
	twin, err := spiffe.ParseUserToken(with(halves(r, new(big.Int).Sub(order, s), 32)))
	if err != nil || twin.Check(check) != nil {
		t.Fatalf("the twin is not judged as its sister: %v", err)
	}
	if twin.Subject != "alice" || twin.Issuer != issuer {
		t.Errorf("the twin says %s of %s", twin.Subject, twin.Issuer)
	}
	zero := new(big.Int)
	for name, bad := range map[string][]byte{
		"DER": []byte("\x30\x06\x02\x01\x01\x02\x01\x01"), "zeros": halves(zero, zero, 32), "s is 0": halves(r, zero, 32), "short": signature[:63],
		"long": append(slices.Clone(signature), 0), "s above the order": halves(r, order, 32),
	} {
		wantRefusal(t, name, judge(with(bad), check), "signature")
	}
}

// Attack 48: audiences and times.
func TestAttack48AudienceAndTimes(t *testing.T) {
	f := newUserForge(t)
	for _, c := range []struct{ member, why string }{
		{`"aud":`, "aud is not"},
		{`"aud":[]`, "aud is not"},
		{`"aud":""`, "aud is not"},
		{`"aud":["orders",1]`, "not a text"},
		{`"aud":{"orders":1}`, "aud is not"},
		{`"aud":"billing"`, "not for"},
		{`"aud":["billing","Orders"]`, "not for"},
		{`"aud":"orders "`, "not for"},
		{`"exp":`, "exp is missing"},
		{`"exp":"soon"`, "whole seconds"},
		{`"exp":1e99`, "whole seconds"},
		{`"exp":-1`, "whole seconds"},
		{`"exp":null`, "whole seconds"},
		{fmt.Sprintf(`"exp":%d`, f.in(-60)), "ended at"},
		{fmt.Sprintf(`"nbf":%d`, f.in(61)), "does not begin"},
		{fmt.Sprintf(`"iat":%d`, f.in(61)), "to come"},
	} {
		wantRefusal(t, c.member, judge(f.token(c.member), f.userCheck()), c.why)
	}
	for _, member := range []string{
		`"aud":"orders"`, `"aud":["billing","orders"]`, fmt.Sprintf(`"exp":%d`, f.in(-59)), fmt.Sprintf(`"nbf":%d`, f.in(60)), `"iat":`, `"sub":`,
	} {
		if err := judge(f.token(member), f.userCheck()); err != nil {
			t.Errorf("%s: %v", member, err)
		}
	}
}

// Attack 51: a set with a private key in it proves nothing.
func TestAttack51PrivateKeyInTheSet(t *testing.T) {
	f := newUserForge(t)
	for _, member := range []string{`"d":"AQ"`, `"p":"AQ"`, `"q":"AQ"`, `"dp":"AQ"`, `"dq":"AQ"`, `"qi":"AQ"`, `"oth":[]`, `"k":"AQ"`} {
		for _, kid := range []string{"rsa", "p256", "ed"} {
			_, err := spiffe.ParseJWKSet([]byte(keySet(f.jwk("p384"), f.jwk(kid, member))))
			wantRefusal(t, "", err, "private key")
		}
	}
	_, err := spiffe.ParseJWKSet([]byte(keySet(f.jwk("p256"), `{"kty":"oct","kid":"hmac"}`)))
	wantRefusal(t, "", err, "symmetric key")
}

func TestJWKSetsThatAreRefusedAndKeysThatAreLeftOut(t *testing.T) {
	f := newUserForge(t)
	for name, c := range map[string]struct{ set, why string }{
		"nothing": {``, "not a JSON object"}, "a list": {`[]`, "not a JSON object"}, "no keys": {`{}`, "keys is missing"}, "null": {`{"keys":null}`, "keys is missing"},
		"empty": {`{"keys":[]}`, "no key that verifies"}, "only weak": {keySet(`{"kty":"RSA","kid":"a","n":"` + strings.Repeat("A", 86) + `","e":"AQAB"}`), "no key that verifies"},
		"twice": {`{"keys":[],"keys":[]}`, "occurs twice"}, "large": {`{"keys":[]}` + strings.Repeat(" ", 1<<20), "bytes"},
		"many": {keySet(slices.Repeat([]string{`{"kty":"EC"}`}, 513)...), "513 keys"},
	} {
		_, err := spiffe.ParseJWKSet([]byte(c.set))
		wantRefusal(t, name, err, c.why)
	}
	s := f.set(f.jwk("p256", `"use":"sig"`, `"alg":"ES256"`), f.jwk("p384", `"use":"enc"`), f.jwk("rsa", `"alg":"RSA-OAEP"`),
		f.jwk("p521", `"key_ops":["sign"]`), `{"kty":"OKP","crv":"X25519","x":"AA","kid":"x"}`, `{"kty":"new","kid":"n"}`)
	if s.Len() != 1 || !s.Has("p256") || s.Has("p384") || !s.Has("") {
		t.Errorf("%d keys are left, want the one for signatures", s.Len())
	}
	var none *spiffe.JWKSet
	if none.Len() != 0 || none.Has("p256") {
		t.Error("no set has a key")
	}
}

func TestUserTokenSaysWhatItIsAndNotItself(t *testing.T) {
	f := newUserForge(t)
	token, err := spiffe.ParseUserToken(f.token(`"groups":["a","b"]`))
	if err != nil {
		t.Fatal(err)
	}
	end := f.at.Add(300*time.Second + spiffe.JWTLeeway)
	if token.Subject != "alice" || token.KeyID() != "p256" || string(token.Claim("groups")) != `["a","b"]` || token.GoodAt(end) || !token.GoodAt(end.Add(-time.Second)) {
		t.Errorf("read as %v", token.Claims())
	}
	if n, ok := token.Claims()["exp"].(json.Number); !ok || n.String() != fmt.Sprint(f.in(300)) {
		t.Errorf("exp is %v", token.Claims()["exp"])
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, token); text != "token of "+issuer {
			t.Errorf("%s prints %q", format, text)
		}
	}
	if !errors.Is(judge(f.signed(headerOf("ES256", "new"), f.claims(), "ES256", "p256"), f.userCheck()), spiffe.ErrUnknownKey) {
		t.Error("a new kid is not told from a bad signature")
	}
}

// FuzzUserToken holds what is read to one spelling, and what is accepted to what
// was signed.
func FuzzUserToken(f *testing.F) {
	forge := newUserForge(f)
	f.Add(headerOf("ES256", "p256"), forge.claims())
	f.Add(`{"alg":"ES256","kid":"p256","typ":"at+jwt"}`, forge.claims(`"aud":"orders"`))
	f.Add(headerOf("ES256", "p256"), forge.claims(`"ISS":"https://evil.example"`, `"iſſ":""`, `"Exp":0`))
	check, deadline := forge.userCheck(), forge.in(-61)
	f.Fuzz(func(t *testing.T, header, claims string) {
		forge := *forge.forge
		forge.t = t
		text := forge.signed(header, claims, "ES256", "p256")
		token, err := spiffe.ParseUserToken(text)
		if err != nil || token.Check(check) != nil {
			return
		}
		var said map[string]any // a struct's names would match in any case
		if err := json.Unmarshal([]byte(claims), &said); err != nil {
			t.Fatalf("%q is accepted: %v", claims, err)
		}
		if expiry, ok := said["exp"].(float64); !ok || int64(expiry) <= deadline || said["iss"] != issuer {
			t.Fatalf("%q is accepted", claims)
		}
	})
}
