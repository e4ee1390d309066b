package spiffe_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/kith-id/kith/spiffe"
)

func timeAttacks() []attack {
	at := func(name, why, claim string, seconds int64) attack {
		return attack{name, func(f *forge) string { return f.good(fmt.Sprintf(`%q:%d`, claim, f.in(seconds))) }, why}
	}
	return []attack{
		claimAttack("exp missing", "exp is missing", `"exp":`),
		claimAttack("exp null", "whole seconds", `"exp":null`),
		claimAttack("exp in a text", "whole seconds", `"exp":"99999999999"`),
		claimAttack("exp with a fraction", "whole seconds", `"exp":4102444800.5`),
		claimAttack("exp 1e30", "whole seconds", `"exp":1e30`),
		claimAttack("exp 4e9", "whole seconds", `"exp":4e9`),
		claimAttack("exp negative", "whole seconds", `"exp":-1`),
		claimAttack("exp 0", "whole seconds", `"exp":0`),
		claimAttack("exp beyond 64 bits", "whole seconds", `"exp":18446744073709551617`),
		claimAttack("exp beyond year 9999", "whole seconds", `"exp":253402300800`),
		claimAttack("exp true", "whole seconds", `"exp":true`),
		claimAttack("Exp for exp", "exp is missing", `"exp":`, `"Exp":4102444800`),
		at("exp past", "ended at", "exp", -61),
		at("exp just past", "ended at", "exp", -60),
		at("exp in a hundred years", "longer than", "exp", 100*365*86400),
		at("exp in 25 hours, without iat", "longer than", "exp", 25*3600),
		{"exp - iat longer than the maximum", func(f *forge) string {
			return f.good(fmt.Sprintf(`"iat":%d`, f.in(-90_000)))
		}, "longer than"},
		at("nbf future", "does not begin", "nbf", 150),
		claimAttack("nbf in a text", "whole seconds", `"nbf":"0"`),
		at("iat future", "to come", "iat", 150),
		claimAttack("iat null", "whole seconds", `"iat":null`),
		{"exp twice", func(f *forge) string {
			return f.good(fmt.Sprintf(`"exp":%d,"exp":%d`, f.in(-500), f.in(300)))
		}, "twice"},
	}
}

func audienceAttacks() []attack {
	return []attack{
		claimAttack("aud missing", "aud is not", `"aud":`),
		claimAttack("aud null", "aud is not", `"aud":null`),
		claimAttack("aud of no name", "aud is not", `"aud":[]`),
		claimAttack("aud empty", "aud is not", `"aud":""`),
		claimAttack("aud of an empty name", "aud has an entry", `"aud":[""]`),
		claimAttack("aud with a number", "aud has an entry", `"aud":["orders",1]`),
		claimAttack("aud with null", "aud has an entry", `"aud":["orders",null]`),
		claimAttack("aud an object", "aud is not", `"aud":{"orders":true}`),
		claimAttack("aud with a list", "aud has an entry", `"aud":[["orders"]]`),
		claimAttack("aud of 65 names", "aud is not", `"aud":["orders"`+strings.Repeat(`,"x"`, 64)+`]`),
		claimAttack("aud of another", "not for", `"aud":["billing"]`),
		claimAttack("aud of another case", "not for", `"aud":["Orders"]`),
		claimAttack("aud with a prefix", "not for", `"aud":["my-orders"]`),
		claimAttack("aud with a suffix", "not for", `"aud":["orders.evil"]`),
		claimAttack("aud with a slash", "not for", `"aud":["orders/"]`),
		claimAttack("aud with a space", "not for", `"aud":"orders billing"`),
		claimAttack("aud a pattern", "not for", `"aud":["*"]`),
		claimAttack("aud look-alike", "not for", `"aud":["оrders"]`), // Cyrillic o
		claimAttack("aud a null byte on", "not for", `"aud":["orders\u0000"]`),
		claimAttack("aud twice", "twice", `"aud":["billing"],"aud":["orders"]`),
		claimAttack("aud twice, once escaped", "twice", `"aud":["billing"],"\u0061ud":["orders"]`),
	}
}

func subjectAttacks() []attack {
	sub := func(name, value, why string) attack { return claimAttack("sub "+name, why, `"sub":`+value) }
	return []attack{
		sub("missing", "", "sub is missing"),
		sub("null", "null", "sub is missing"),
		sub("a list", `["spiffe://acme.example/web"]`, "sub is missing"),
		sub("no SPIFFE ID", `"web"`, "sub"),
		sub("an https URL", `"https://acme.example/web"`, "sub"),
		sub("the trust domain", `"spiffe://acme.example"`, "has no path"),
		sub("with a slash at the end", `"spiffe://acme.example/"`, "sub"),
		sub("with dots", `"spiffe://acme.example/a/../web"`, "sub"),
		sub("percent encoded", `"spiffe://acme.example/%77eb"`, "sub"),
		sub("with a query", `"spiffe://acme.example/web?x"`, "sub"),
		sub("upper case", `"spiffe://ACME.example/web"`, "sub"),
		sub("with a user", `"spiffe://x@acme.example/web"`, "sub"),
		sub("twice", `"spiffe://other.example/web","sub":"spiffe://acme.example/web"`, "twice"),
		{"an OIDC ID token", func(f *forge) string {
			return f.good(`"sub":"108204268033311374519"`, `"iss":"https://accounts.example"`, `"nonce":"n"`)
		}, "sub"},
	}
}

// What go-spiffe takes and we refuse, each for a reason: the standard's, or
// that two programs would read it differently.
func takenByGoSPIFFE() map[string]string {
	const (
		header = "JWT-SVID 2: no header parameter but alg, kid and typ"
		text   = "two spellings of one token"
		whole  = "no two programs round a time alike"
		long   = "a token is short-lived by design"
	)
	return map[string]string{
		"PS256 by a key for RS256":          "RFC 7517 4.4: the key's alg says what it is for",
		"a key to fetch in jku":             header,
		"a chain to fetch in x5u":           header,
		"crit empty":                        "RFC 7515 4.1.11: crit is never empty",
		"zip bomb":                          header,
		"nested by cty":                     header,
		"enc, as a JWE has it":              header,
		"Alg beside alg":                    header,
		"typ null":                          "JWT-SVID 2.3: JWT or JOSE",
		"line end in the payload":           text,
		"line end in the signature":         text,
		"spare bits set":                    text,
		"8 KiB header":                      "it would be read before anything is verified",
		"claims nested 40 deep":             "it would be read before anything is verified",
		"claims not UTF-8":                  "RFC 8259 8.1",
		"exp with a fraction":               whole,
		"exp 4e9":                           whole,
		"exp beyond year 9999":              long,
		"exp in a hundred years":            long,
		"exp in 25 hours, without iat":      long,
		"exp - iat longer than the maximum": long,
		"iat null":                          "RFC 7519 4.1.6: a number",
		"aud of 65 names":                   "bounded before it is read",
		"sub the trust domain":              "JWT-SVID 3.1: a workload's ID",
	}
}

// go-spiffe is the oracle: what it refuses we refuse, and what it takes beyond
// us is written down.
func TestOracleJWT(t *testing.T) {
	f := newForge(t, time.Now())
	source := jwtbundle.NewSet()
	for td, bundle := range f.bundles {
		theirs := jwtbundle.New(spiffeid.RequireTrustDomainFromString(td.String()))
		for _, key := range bundle.JWTKeys() {
			if err := theirs.AddJWTAuthority(key.ID, key.Public); err != nil {
				t.Fatal(err)
			}
		}
		source.Add(theirs)
	}
	theirs := func(token string) error {
		_, err := jwtsvid.ParseAndValidate(token, source, []string{"orders"})
		return err
	}
	for _, token := range lawful(f) {
		ours, err := spiffe.ValidateJWT(token, f.check())
		if err != nil {
			t.Errorf("a lawful token: %v", err)
			continue
		}
		svid, err := jwtsvid.ParseAndValidate(token, source, []string{"orders"})
		if err != nil || svid.ID.String() != ours.ID.String() || !svid.Expiry.Equal(ours.Expiry) {
			t.Errorf("go-spiffe reads %v, %v, where we read %s until %s", svid, err, ours.ID, ours.Expiry)
		}
	}
	taken := takenByGoSPIFFE()
	for _, a := range attacks() {
		err := theirs(a.token(f))
		if _, known := taken[a.name]; known != (err == nil) {
			t.Errorf("%s: go-spiffe says %v; takenByGoSPIFFE knows it: %t", a.name, err, known)
		}
	}
}

// lawful is tokens that must be accepted.
func lawful(f *forge) []string {
	tokens := []string{
		f.good(),
		f.good(`"aud":"orders"`),
		f.good(`"aud":["billing","orders"]`),
		f.good(`"iat":`),
		f.good(fmt.Sprintf(`"exp":%d`, f.in(-30))),
		f.good(fmt.Sprintf(`"nbf":%d`, f.in(30))),
		f.good(fmt.Sprintf(`"iat":%d`, f.in(30))),
		f.good(`"jti":"x","iss":"https://acme.example","deep":{"a":{"b":[1,2]}}`),
		f.headed(`{"alg":"ES256","kid":"p256"}`),
		f.headed(`{ "kid" : "p256", "typ":"JOSE", "\u0061lg":"ES256" }`),
	}
	for alg, kid := range map[string]string{
		"RS256": "rsa", "RS384": "rsa", "RS512": "rsa", "PS256": "rsa", "PS384": "rsa", "PS512": "rsa",
		"ES256": "p256", "ES384": "p384", "ES512": "p521",
	} {
		tokens = append(tokens, f.signed(headerOf(alg, kid), f.claims(), alg, kid))
	}
	return tokens
}
