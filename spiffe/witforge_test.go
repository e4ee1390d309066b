package spiffe_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// witForge makes WIT-SVIDs, lawful or not: acme.example signs them with the key
// "wit", and has one for JWT-SVIDs, "p256".
type witForge struct {
	*forge

	holder *ecdsa.PrivateKey // whom they are bound to
	key    *spiffe.ProofKey
}

func newWITForge(t testing.TB) *witForge {
	t.Helper()
	f := &witForge{forge: newForge(t, epoch), holder: mustECDSA(t, elliptic.P256()).(*ecdsa.PrivateKey)}
	f.keys["wit"], f.keys["wit384"], f.keys["witrsa"] = mustECDSA(t, elliptic.P256()), mustECDSA(t, elliptic.P384()), f.keys["rsa"]
	for name, kids := range map[string][]string{"acme.example": {"wit", "wit384", "witrsa"}, "other.example": {}} {
		td := mustTD(t, name)
		var keys []spiffe.JWTKey
		for _, kid := range kids {
			keys = append(keys, spiffe.JWTKey{ID: kid, Public: f.keys[kid].Public()})
		}
		if name == "other.example" {
			keys = []spiffe.JWTKey{{ID: "wit", Public: mustECDSA(t, elliptic.P256()).Public()}}
		}
		b, err := f.bundles[td].WithWITKeys(keys...)
		if err != nil {
			t.Fatal(err)
		}
		f.bundles[td] = b
	}
	var err error
	if f.key, err = spiffe.NewProofKey(f.holder); err != nil {
		t.Fatal(err)
	}
	return f
}

func witHeader(alg, kid string) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"wit+jwt"}`, alg, kid)
}

func (f *witForge) jwk() string {
	f.t.Helper()
	text, err := spiffe.MarshalProofJWK(&f.holder.PublicKey)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// wits is lawful claims of a WIT-SVID, changed as forge.claims changes them.
func (f *witForge) wits(members ...string) string {
	return f.claims(append([]string{`"aud":`, `"cnf":{"jwk":` + f.jwk() + `}`}, members...)...)
}

// lawful is a token by the key "wit" with these claims.
func (f *witForge) lawful(members ...string) string {
	return f.signed(witHeader("ES256", "wit"), f.wits(members...), "ES256", "wit")
}

// titled is a lawful token but for its header.
func (f *witForge) titled(header string) string {
	return f.signed(header, f.wits(), "ES256", "wit")
}

// bound is a token whose cnf is this text.
func (f *witForge) bound(cnf string) string { return f.lawful(`"cnf":` + cnf) }

// withJWK is a token bound to our key as this change leaves it.
func (f *witForge) withJWK(before, after string) string {
	return f.bound(`{"jwk":` + strings.Replace(f.jwk(), before, after, 1) + `}`)
}

func (f *witForge) witCheck() spiffe.WITCheck {
	return spiffe.WITCheck{Bundle: f.bundles.Bundle, Now: f.at}
}

func (f *witForge) accepts(token string) *spiffe.WITSVID {
	f.t.Helper()
	svid, err := spiffe.ValidateWIT(token, f.witCheck())
	if err != nil {
		f.t.Fatalf("a lawful token: %v", err)
	}
	return svid
}

func (f *witForge) refuses(why string, tokens ...string) {
	f.t.Helper()
	for _, token := range tokens {
		if svid, err := spiffe.ValidateWIT(token, f.witCheck()); err == nil || svid != nil || !strings.Contains(err.Error(), why) {
			f.t.Errorf("%.80s: got %v, %v, want an error with %q", token, svid, err, why)
		}
	}
}
