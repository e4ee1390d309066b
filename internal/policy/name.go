package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

const maxName = 63

// ValidateName checks the name of a service or a rule: a DNS label of lower-case
// letters, digits and inner hyphens, so that it can stand as a host in a URL.
func ValidateName(name string) error {
	switch {
	case name == "":
		return fault.Invalidf("name is empty")
	case len(name) > maxName:
		return fault.Invalidf("name is longer than %d characters", maxName)
	}
	letters := false
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z':
			letters = true
		case '0' <= c && c <= '9':
		case c == '-' && i > 0 && i < len(name)-1:
		default:
			return fault.Hint(fault.Invalidf("name %q: only a-z, 0-9 and inner hyphens", name),
				"names are lower-case, as in web-reads")
		}
	}
	// A resolver reads 127 and 0x7f as IPv4 addresses.
	if !letters || strings.HasPrefix(name, "0x") {
		return fault.Invalidf("name %q could be read as an address", name)
	}
	return nil
}

// reservedName is true for words that mean something else where a service name
// can stand.
func reservedName(name string) bool {
	switch name {
	case "any", "anonymous", "all", "none", "kith", "localhost":
		return true
	default:
		return false
	}
}
