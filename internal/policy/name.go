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

// nearest is the candidate that name is most likely a slip of, or "".
func nearest(name string, candidates []string) string {
	best, limit := "", min(2, max(1, len(name)/3))
	for _, c := range candidates {
		d := editDistance(name, c, limit)
		if d < limit || d == limit && (best == "" || c < best) {
			best, limit = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance of a and b, or more than limit.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit || len(a) > 4*maxName || len(b) > 4*maxName {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(diagonal+cost, row[j]+1, row[j+1]+1)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
