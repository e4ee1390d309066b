package ca

import (
	"slices"
	"strings"
	"testing"

	"github.com/kith-id/kith/spiffe"
)

// RFC 5280 A.1: an organization name has at most 64 characters, and a trust
// domain may have 255.
func TestAuthorityNameFitsItsBounds(t *testing.T) {
	label := strings.Repeat("a", 63)
	for domain, want := range map[string][]string{
		"acme.example": {"acme.example"},
		label + ".":    {label + "."},
		label + ".b":   nil,
		label + "." + label + "." + label + "." + label: nil,
	} {
		td, err := spiffe.ParseTrustDomain(domain)
		if err != nil {
			t.Fatal(err)
		}
		name := authorityName(td, "root")
		if !slices.Equal(name.Organization, want) || name.CommonName != "Kith root" {
			t.Errorf("%s: got %q", domain, name)
		}
	}
}
