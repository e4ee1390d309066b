package vectors

import (
	"maps"
	"slices"
	"strings"
	"testing"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	"github.com/zmap/zlint/v3/lint"
)

// exception is a lint whose finding is right and is accepted.
type exception struct {
	reason  string
	applies func(trustDomain string) bool
}

// agreed are all exceptions. A lint that is not named here must pass, be it only
// a notice; one that is named here and finds nothing any more must be taken out.
func agreed() map[string]exception {
	return map[string]exception{
		"e_ext_san_uri_host_not_fqdn_or_ip": {
			"SPIFFE-ID 2.1 allows a trust domain of one label, which RFC 5280 4.2.1.6 does not count as a fully qualified host name",
			func(td string) bool { return !strings.Contains(td, ".") },
		},
	}
}

// rfcLints are the lints of the RFCs that apply to any certificate; those of the
// public web's forums, stores and governments do not.
func rfcLints(t *testing.T) lint.Registry {
	t.Helper()
	registry, err := lint.GlobalRegistry().Filter(lint.FilterOptions{
		IncludeSources: lint.SourceList{lint.RFC3279, lint.RFC5280, lint.RFC5480, lint.RFC5891, lint.RFC6962, lint.RFC8813},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(registry.Names()); n < 100 {
		t.Fatalf("%d lints, want the 100 and more of the RFCs", n)
	}
	return registry
}

// Bar 23 of the list of reliability: whatever the authority issues passes zlint.
func TestEveryCertificatePassesZlint(t *testing.T) {
	registry := rfcLints(t)
	found := make(map[string]bool)
	certificates := 0
	for _, authority := range []struct{ domain, server string }{
		{"acme.example", "a"},
		{"dev.kith.local", strings.Repeat("s", 51)},
		{"0", "server-1"},
		{longestDomain(), strings.Repeat("s", 51)},
	} {
		for _, c := range issueMany(t, authority.domain, authority.server, 100) {
			certificates++
			parsed, err := zx509.ParseCertificate(c.cert.Raw)
			if err != nil {
				t.Errorf("%s: zcrypto cannot parse it: %v", c.what, err)
				continue
			}
			for name, result := range zlint.LintCertificateEx(parsed, registry).Results {
				if result.Status <= lint.Pass {
					continue
				}
				found[name] = true
				if e, ok := agreed()[name]; !ok || !e.applies(authority.domain) {
					t.Errorf("%s: %s: %s %s", c.what, name, result.Status, result.Details)
				}
			}
		}
	}
	t.Logf("%d certificates, %d lints", certificates, len(registry.Names()))
	for _, name := range slices.Sorted(maps.Keys(agreed())) {
		if !found[name] {
			t.Errorf("%s finds nothing any more: take it out of agreed()", name)
		}
	}
}
