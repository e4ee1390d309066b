package spiffe_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/kith-id/kith/spiffe"
)

// FuzzParseJWT holds what is read to its one spelling, and to what go-spiffe
// reads: who of the two takes more is told in takenByGoSPIFFE.
func FuzzParseJWT(f *testing.F) {
	forge := newForge(f, epoch)
	for _, token := range lawful(forge) {
		f.Add(token)
	}
	for _, a := range attacks() {
		if token := a.token(forge); len(token) < 4096 {
			f.Add(token)
		}
	}
	f.Fuzz(func(t *testing.T, token string) {
		svid, err := spiffe.ParseJWT(token)
		if err != nil {
			return
		}
		if svid.ID.Path() == "" || len(svid.Audience) == 0 || svid.Expiry.IsZero() || svid.KeyID() == "" || svid.Token() != token {
			t.Fatalf("%q is read as %s for %q until %s", token, svid.ID, svid.Audience, svid.Expiry)
		}
		if strings.Count(token, ".") != 2 || strings.ContainsAny(token, "= \r\n\t") {
			t.Fatalf("%q is taken, in more than one spelling", token)
		}
		if svid.Claims()["sub"] != svid.ID.String() {
			t.Fatalf("claims of %q say %v, not %s", token, svid.Claims()["sub"], svid.ID)
		}
		// It wants no time or audience here; both are checked in all else.
		theirs, err := jwtsvid.ParseInsecure(token, svid.Audience[:1])
		if err == nil && (theirs.ID.String() != svid.ID.String() || !theirs.Expiry.Equal(svid.Expiry)) {
			t.Fatalf("%q: go-spiffe reads %s until %s", token, theirs.ID, theirs.Expiry)
		}
	})
}

// FuzzValidateJWT signs any two texts by a good key, which a careless issuer
// may do: what passes says in every reader's eyes what we read.
func FuzzValidateJWT(f *testing.F) {
	forge := newForge(f, epoch)
	texts := func(token string) (header, claims string) {
		p := strings.Split(token, ".")
		if len(p) == 3 && len(token) < 4096 {
			h, _ := base64.RawURLEncoding.DecodeString(p[0])
			c, _ := base64.RawURLEncoding.DecodeString(p[1])
			return string(h), string(c)
		}
		return "", ""
	}
	for _, token := range lawful(forge) {
		header, claims := texts(token)
		f.Add(header, claims)
	}
	for _, a := range attacks() {
		header, claims := texts(a.token(forge))
		f.Add(header, claims)
	}
	check := forge.check()
	f.Fuzz(func(t *testing.T, header, claims string) {
		mine := *forge
		mine.t = t
		token := mine.signed(header, claims, "ES256", "p256")
		svid, err := spiffe.ValidateJWT(token, check)
		if err != nil {
			return
		}
		var h, c map[string]any
		if json.Unmarshal([]byte(header), &h) != nil || json.Unmarshal([]byte(claims), &c) != nil ||
			h["alg"] != "ES256" || h["kid"] != "p256" || c["sub"] != svid.ID.String() || c["exp"] != float64(svid.Expiry.Unix()) {
			t.Fatalf("%q %q is taken for %s until %s", header, claims, svid.ID, svid.Expiry)
		}
		if !slices.Contains(svid.Audience, "orders") || !epoch.Before(svid.Expiry.Add(spiffe.JWTLeeway)) {
			t.Fatalf("%q is taken for %q until %s", claims, svid.Audience, svid.Expiry)
		}
	})
}

func FuzzParseJWTKeys(f *testing.F) {
	forge := newForge(f, epoch)
	td := mustTD(f, "acme.example")
	document, err := forge.bundles[td].Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(document)
	f.Add([]byte(`{"keys":[{"use":"jwt-svid","kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}`))
	f.Add([]byte(`{"keys":[{"use":"jwt-svid","kty":"EC","kid":"<\u2028","crv":"P-256","x":"AA","y":"AA"}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		if len(document) > maxFuzzedDocument {
			return
		}
		b, err := spiffe.ParseBundle(td, document)
		if err != nil {
			return
		}
		out, err := b.MarshalJWTKeys()
		if err != nil {
			t.Fatalf("%s: %v", document, err)
		}
		again, err := spiffe.ParseBundle(td, out)
		if err != nil || len(again.JWTKeys()) != len(b.JWTKeys()) {
			t.Fatalf("%s is written as %s, which is read differently: %v", document, out, err)
		}
	})
}
