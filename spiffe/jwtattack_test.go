package spiffe_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// attack is a token that must be refused, and a word of the reason.
type attack struct {
	name  string
	token func(f *forge) string
	why   string
}

// attacks is the table of reliability in JWT: what has broken somebody's
// verifier before, family by family.
func attacks() []attack {
	var all []attack
	for _, family := range [][]attack{algorithmAttacks(), signatureAttacks(), keyAttacks(), headerAttacks(), encodingAttacks(), timeAttacks(), audienceAttacks(), subjectAttacks()} {
		all = append(all, family...)
	}
	return all
}

// headAttack is one whose signature is good and whose header is not.
func headAttack(name, header, why string) attack {
	return attack{name, func(f *forge) string { return f.headed(header) }, why}
}

// claimAttack is one whose signature is good and whose claims are not.
func claimAttack(name, why string, members ...string) attack {
	return attack{name, func(f *forge) string { return f.good(members...) }, why}
}

func algorithmAttacks() []attack {
	var all []attack
	for _, none := range []string{"none", "None", "nOnE", "NONE", ""} {
		all = append(all, attack{"alg " + none, func(f *forge) string {
			return unsigned(headerOf(none, "p256"), f.claims(), "")
		}, "is empty"}, headAttack("alg "+none+" with a signature", headerOf(none, "p256"), "nine allowed"))
	}
	secret := func(name, kid string, of func(spiffe.JWTKey) []byte) attack {
		return attack{"HS256 under " + name, func(f *forge) string {
			key, _ := f.bundles[mustTD(f.t, "acme.example")].JWTKey(kid)
			return f.mac(of(key), kid)
		}, "nine allowed"}
	}
	der := func(key spiffe.JWTKey) []byte {
		out, _ := x509.MarshalPKIXPublicKey(key.Public)
		return out
	}
	inPEM := func(key spiffe.JWTKey) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der(key)})
	}
	return append(all,
		headAttack("alg missing", `{"kid":"p256","typ":"JWT"}`, "nine allowed"),
		headAttack("alg null", `{"alg":null,"kid":"p256"}`, "nine allowed"),
		headAttack("alg in a list", `{"alg":["ES256"],"kid":"p256"}`, "nine allowed"),
		headAttack("alg lower case", headerOf("es256", "p256"), "nine allowed"),
		headAttack("alg with a space", headerOf("ES256 ", "p256"), "nine allowed"),
		headAttack("EdDSA", headerOf("EdDSA", "p256"), "nine allowed"),
		headAttack("ES256K", headerOf("ES256K", "p256"), "nine allowed"),
		headAttack("ES128", headerOf("ES128", "p256"), "nine allowed"),
		secret("an RSA key in DER", "rsa", der),
		secret("an EC key in DER", "p256", der),
		secret("an RSA key in PEM", "rsa", inPEM),
		secret("an EC key in PEM", "p256", inPEM),
		secret("the JWK as text", "p256", func(key spiffe.JWTKey) []byte {
			point, _ := key.Public.(*ecdsa.PublicKey).Bytes()
			coordinate := base64.RawURLEncoding.EncodeToString
			return fmt.Appendf(nil, `{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, coordinate(point[1:33]), coordinate(point[33:]))
		}),
		secret("the JWK's bytes", "rsa", func(key spiffe.JWTKey) []byte { return key.Public.(*rsa.PublicKey).N.Bytes() }),
		secret("nothing", "p256", func(spiffe.JWTKey) []byte { return nil }),
		attack{"RS256 said, PS256 signed", func(f *forge) string {
			return f.signed(headerOf("RS256", "rsa"), f.claims(), "PS256", "rsa")
		}, "signature"},
		attack{"PS256 said, RS256 signed", func(f *forge) string {
			return f.signed(headerOf("PS256", "rsa"), f.claims(), "RS256", "rsa")
		}, "signature"},
		attack{"RS384 said, RS256 signed", func(f *forge) string {
			return f.signed(headerOf("RS384", "rsa"), f.claims(), "RS256", "rsa")
		}, "signature"},
		attack{"ES256 by a P-384 key", func(f *forge) string { return f.signed(headerOf("ES256", "p384"), f.claims(), "ES256", "p384") }, "not one for ES256"},
		attack{"ES384 by a P-256 key", func(f *forge) string { return f.signed(headerOf("ES384", "p256"), f.claims(), "ES384", "p256") }, "not one for ES384"},
		attack{"ES256 by an RSA key", func(f *forge) string { return f.signed(headerOf("ES256", "rsa"), f.claims(), "RS256", "rsa") }, "not one for ES256"},
		attack{"RS256 by an EC key", func(f *forge) string { return f.signed(headerOf("RS256", "p256"), f.claims(), "ES256", "p256") }, "not one for RS256"},
		attack{"PS256 by a key for RS256", func(f *forge) string {
			return f.signed(headerOf("PS256", "rs256"), f.claims(), "PS256", "rs256")
		}, "is for RS256"},
	)
}

func signatureAttacks() []attack {
	raw := func(bytes func(f *forge) []byte) func(*forge) string {
		return func(f *forge) string {
			return f.edit(2, func(string) string { return base64.RawURLEncoding.EncodeToString(bytes(f)) })
		}
	}
	order := func() *big.Int { return elliptic.P256().Params().N }
	return []attack{
		{"blank signature", func(f *forge) string { return f.edit(2, func(string) string { return "" }) }, "is empty"},
		{"one null byte", raw(func(*forge) []byte { return []byte{0} }), "signature"},
		{"psychic: r = s = 0", raw(func(*forge) []byte { return make([]byte, 64) }), "signature"},
		{"r = s = n", raw(func(*forge) []byte { return halves(order(), order(), 32) }), "signature"},
		{"r = n, s = 1", raw(func(*forge) []byte { return halves(order(), big.NewInt(1), 32) }), "signature"},
		{"r = s = 1", raw(func(*forge) []byte { return halves(big.NewInt(1), big.NewInt(1), 32) }), "signature"},
		{"r beyond n", raw(func(f *forge) []byte {
			out := make([]byte, 64)
			for i := range out {
				out[i] = 0xff
			}
			return out
		}), "signature"},
		{"in DER, as X.509 has it", raw(func(f *forge) []byte {
			key := f.keys["p256"].(*ecdsa.PrivateKey)
			out, _ := key.Sign(nil, make([]byte, 32), nil)
			return out
		}), "signature"},
		{"a zero before each half", func(f *forge) string {
			return f.edit(2, func(s string) string {
				b, _ := base64.RawURLEncoding.DecodeString(s)
				return base64.RawURLEncoding.EncodeToString(append(append([]byte{0}, b[:32]...), append([]byte{0}, b[32:]...)...))
			})
		}, "signature"},
		{"of another token", func(f *forge) string {
			return f.edit(2, func(string) string {
				other := f.good(`"sub":"spiffe://acme.example/other"`)
				return other[strings.LastIndex(other, ".")+1:]
			})
		}, "signature"},
		{"payload swapped", func(f *forge) string {
			return f.edit(1, func(string) string { return b64url(f.claims(`"sub":"spiffe://acme.example/admin"`)) })
		}, "signature"},
		{"kid swapped for another key of the bundle", func(f *forge) string {
			return f.edit(0, func(string) string { return b64url(headerOf("ES256", "shared")) })
		}, "signature"},
	}
}

func keyAttacks() []attack {
	kid := func(name, value, why string) attack {
		return headAttack("kid "+name, fmt.Sprintf(`{"alg":"ES256","kid":%s,"typ":"JWT"}`, value), why)
	}
	big, _ := json.Marshal(strings.Repeat("k", 1<<20))
	return []attack{
		kid("of nobody", `"nobody"`, "has no key"),
		kid("of another case", `"P256"`, "has no key"),
		kid("with a path", `"../../../../dev/null"`, "has no key"),
		kid("with SQL", `"x' UNION SELECT 'key' --"`, "has no key"),
		kid("with a command", `"p256;id"`, "has no key"),
		kid("with a null byte", `"p256\u0000"`, "has no key"),
		kid("empty", `""`, "kid is not"),
		kid("null", `null`, "kid is not"),
		kid("a number", `256`, "kid is not"),
		kid("a list", `["p256"]`, "kid is not"),
		kid("of 1 MiB", string(big), "at most"),
		kid("of 2 KiB", string(big[:2048])+`"`, "kid is not"),
		headAttack("kid missing", `{"alg":"ES256","typ":"JWT"}`, "kid is not"),
		{"by a stranger's key", func(f *forge) string {
			return f.signed(headerOf("ES256", "p256"), f.claims(), "ES256", "stranger")
		}, "signature"},
		{"by a key of another trust domain", func(f *forge) string {
			return f.signed(headerOf("ES256", "elsewhere"), f.claims(), "ES256", "elsewhere")
		}, "has no key"},
		{"by our key of that kid, for another trust domain", func(f *forge) string {
			return f.signed(headerOf("ES256", "shared"), f.claims(`"sub":"spiffe://other.example/web"`), "ES256", "shared")
		}, "signature"},
		{"trust domain without a bundle", func(f *forge) string { return f.good(`"sub":"spiffe://nobody.example/web"`) }, "no bundle"},
		{"trust domain without keys for JWT", func(f *forge) string { return f.good(`"sub":"spiffe://x509.only/web"`) }, "no key for JWT-SVIDs"},
	}
}

func headerAttacks() []attack {
	with := func(name, member, why string) attack {
		return headAttack(name, `{"alg":"ES256","kid":"p256","typ":"JWT",`+member+`}`, why)
	}
	return []attack{
		with("its own key in jwk", `"jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}`, "all there may be"),
		with("a key to fetch in jku", `"jku":"http://127.0.0.1:1/keys"`, "all there may be"),
		with("a chain to fetch in x5u", `"x5u":"http://127.0.0.1:1/chain"`, "all there may be"),
		with("a chain in x5c", `"x5c":["AA=="]`, "all there may be"),
		with("crit unknown", `"crit":["exp"],"exp":1`, "critical"),
		with("crit empty", `"crit":[]`, "critical"),
		with("b64 false", `"b64":false`, "all there may be"),
		with("zip bomb", `"zip":"DEF"`, "all there may be"),
		with("nested by cty", `"cty":"JWT"`, "all there may be"),
		with("enc, as a JWE has it", `"enc":"A128GCM"`, "all there may be"),
		with("alg twice", `"alg":"none"`, "twice"),
		with("alg twice, once escaped", `"\u0061lg":"none"`, "twice"),
		with("kid twice", `"kid":"shared"`, "twice"),
		with("Alg beside alg", `"Alg":"none"`, "all there may be"),
		with("nested names twice", `"x":{"a":1,"a":2}`, "twice"),
		headAttack("typ of a WIT-SVID", `{"alg":"ES256","kid":"p256","typ":"wit+jwt"}`, "typ"),
		headAttack("typ of an access token", `{"alg":"ES256","kid":"p256","typ":"at+jwt"}`, "typ"),
		headAttack("typ lower case", `{"alg":"ES256","kid":"p256","typ":"jwt"}`, "typ"),
		headAttack("typ null", `{"alg":"ES256","kid":"p256","typ":null}`, "typ"),
		headAttack("a list for a header", `["ES256"]`, "not a JSON object"),
		headAttack("something after the header", `{"alg":"ES256","kid":"p256"} {}`, "follows"),
		headAttack("header not UTF-8", "{\"alg\":\"ES256\",\"kid\":\"p256\xff\"}", "UTF-8"),
	}
}

func encodingAttacks() []attack {
	pad := func(part int, with string) func(*forge) string {
		return func(f *forge) string { return f.edit(part, func(s string) string { return s + with }) }
	}
	whole := func(change func(string) string) func(*forge) string {
		return func(f *forge) string { return change(f.good()) }
	}
	return []attack{
		{"nothing", func(*forge) string { return "" }, "three parts"},
		{"two parts", whole(func(s string) string { return s[:strings.LastIndex(s, ".")] }), "three parts"},
		{"four parts", whole(func(s string) string { return s + ".AA" }), "three parts"},
		{"five parts, as a JWE has", whole(func(s string) string { return s + ".AA.AA" }), "three parts"},
		{"JSON serialization, flattened", whole(func(s string) string {
			p := strings.Split(s, ".")
			return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, p[0], p[1], p[2])
		}), "three parts"},
		{"JSON serialization, general", whole(func(s string) string {
			p := strings.Split(s, ".")
			return fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, p[1], p[0], p[2])
		}), "three parts"},
		{"padding on the header", pad(0, "="), "base64url"},
		{"padding on the payload", pad(1, "=="), "base64url"},
		{"padding on the signature", pad(2, "=="), "base64url"},
		{"line end in the payload", pad(1, "\n"), "line end"},
		{"line end in the signature", pad(2, "\r\n"), "line end"},
		{"space at the end", pad(2, " "), "base64url"},
		{"space at the front", whole(func(s string) string { return " " + s }), "base64url"},
		{"Bearer at the front", whole(func(s string) string { return "Bearer " + s }), "base64url"},
		{"spare bits set", func(f *forge) string { return f.edit(2, spareBits) }, "base64url"},
		{"standard alphabet", func(f *forge) string {
			return f.edit(2, func(string) string { return strings.Repeat("+/", 43) })
		}, "base64url"},
		{"65 KiB", whole(func(s string) string { return s + strings.Repeat("A", 64<<10) }), "at most"},
		{"8 KiB header", func(f *forge) string {
			return f.headed(`{"alg":"ES256","kid":"p256"` + strings.Repeat(" ", 8<<10) + "}")
		}, "at most"},
		{"a token in a token", func(f *forge) string {
			return f.signed(headerOf("ES256", "p256"), f.good(), "ES256", "p256")
		}, "not a JSON object"},
		{"claims nested 10 000 deep", claimAttack("", "", `"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000)).token, ""},
		{"claims nested 40 deep", claimAttack("", "", `"x":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)).token, "deeper"},
		{"claims cut off", func(f *forge) string {
			return f.signed(headerOf("ES256", "p256"), strings.TrimSuffix(f.claims(), "}"), "ES256", "p256")
		}, "JSON"},
		{"claims not UTF-8", func(f *forge) string {
			return f.signed(headerOf("ES256", "p256"), f.claims("\"x\":\"\xc3\x28\""), "ES256", "p256")
		}, "UTF-8"},
	}
}

// spareBits sets the bits of the last character that carry nothing.
func spareBits(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, s[len(s)-1])
	return s[:len(s)-1] + string(alphabet[last|1])
}

func TestAttacksOnJWT(t *testing.T) {
	f := newForge(t, epoch)
	all := attacks()
	if len(all) < 60 {
		t.Errorf("%d attacks, at least 60 are to be tried", len(all))
	}
	if _, err := spiffe.ValidateJWT(f.good(), f.check()); err != nil {
		t.Fatalf("a lawful token: %v", err)
	}
	names := make(map[string]bool)
	for _, a := range all {
		if names[a.name] {
			t.Errorf("two attacks are called %q", a.name)
		}
		names[a.name] = true
		svid, err := spiffe.ValidateJWT(a.token(f), f.check())
		if err == nil || svid != nil || !strings.Contains(err.Error(), a.why) {
			t.Errorf("%s: got %v, %v, want an error with %q", a.name, svid, err, a.why)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("%s: the error has %d bytes", a.name, len(err.Error()))
		}
	}
}
