package registry

import (
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

func TestIssuerIsWrittenInOneWay(t *testing.T) {
	for _, good := range []string{
		"https://oidc.acme.example", "https://oidc.acme.example/kith", "https://oidc.acme.example:8443", "https://127.0.0.1:8443/a/b",
		"https://[::1]:8443", "https://a/" + strings.Repeat("x", 590),
	} {
		if err := ValidateIssuer(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "oidc.acme.example", "http://oidc.acme.example", "https://", "https:oidc.acme.example", "https://oidc.acme.example/",
		"https://oidc.acme.example?", "https://oidc.acme.example?a=b", "https://oidc.acme.example#x", "https://oidc.acme.example#",
		"https://me@oidc.acme.example", "https://OIDC.acme.example", "HTTPS://oidc.acme.example", "https://oidc.acme.example:443",
		"https://oidc.acme.example:", "https://oidc.acme.example//a", "https://oidc.acme.example/a/../b", "https://oidc.acme.example/./a",
		"https://oidc.acme.example/%61", "https://oidc.acme.example/a b", "https://oidc.acme.example/a\n", "https://a/" + strings.Repeat("x", 600),
	} {
		if err := ValidateIssuer(bad); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q: got %v, want it refused", bad, err)
		}
	}
}
