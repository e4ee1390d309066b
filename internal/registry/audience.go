package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/fault"
)

// The limits of the audience of a JWT-SVID. The journal keeps it whole.
const (
	maxAudiences     = 16
	maxAudience      = 256  // bytes of one name
	maxAudienceTotal = 1024 // bytes of all
)

// ValidateAudience refuses what no JWT-SVID is issued for: no name, more than
// 16, over 1 KiB together; and a name that is empty, over 256 bytes, not
// printable, with a space, or there twice.
func ValidateAudience(audience []string) error {
	if n := len(audience); n == 0 || n > maxAudiences {
		return fault.Invalidf("audience has %d names, 1 to %d are allowed", n, maxAudiences)
	}
	seen := make(map[string]bool, len(audience))
	total := 0
	for _, name := range audience {
		total += len(name)
		switch {
		case name == "" || len(name) > maxAudience || total > maxAudienceTotal:
			return fault.Invalidf("audience has a name of %d bytes, 1 to %d are allowed and %d together", len(name), maxAudience, maxAudienceTotal)
		case !utf8.ValidString(name) || strings.ContainsFunc(name, unprintable):
			return fault.Invalidf("audience %q has a space or what cannot be printed", name)
		case seen[name]:
			return fault.Invalidf("audience %q is there twice", name)
		}
		seen[name] = true
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }
