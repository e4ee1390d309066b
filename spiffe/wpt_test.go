package spiffe_test

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// FuzzParseProofToken holds what is read to one receiver, an end and a name.
func FuzzParseProofToken(f *testing.F) {
	hash := strings.Repeat("A", 43)
	for _, claims := range []string{
		`{"aud":"https://a","exp":1,"jti":"12345678","wth":"` + hash + `"}`,
		`{"aud":"https://a","exp":1,"jti":"12345678","wth":"` + hash + `","oth":{"x":"` + hash + `"},"ath":"` + hash + `"}`, `{"aud":["a"]}`, `{}`,
	} {
		f.Add(b64url(`{"alg":"ES256","typ":"wpt+jwt"}`) + "." + b64url(claims) + ".AAAA")
	}
	f.Fuzz(func(t *testing.T, token string) {
		p, err := spiffe.ParseProofToken(token)
		if err != nil {
			return
		}
		if p.Audience == "" || p.Expiry.IsZero() || len(p.ID) < 8 || len(p.WITHash) != 32 || p.Algorithm == "" || !strings.HasPrefix(token, string(p.Content())+".") {
			t.Fatalf("%q is read as %+v", token, p)
		}
	})
}
