package registry

import (
	"net/url"
	"path"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// maxIssuer is what Microsoft Entra takes; AWS takes less (kith doctor aws).
const maxIssuer = 600

// ValidateIssuer checks the URL under which tokens say that their keys are
// published (OpenID Connect Discovery 1.0, 3 and 4.1): receivers compare it
// letter by letter and append a path to it, so only one way of writing it is
// allowed.
func ValidateIssuer(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return fault.Invalidf("%q is no URL as in https://oidc.acme.example", text)
	case len(text) > maxIssuer:
		return fault.Invalidf("it has %d bytes, at most %d are allowed", len(text), maxIssuer)
	case u.Scheme != "https":
		return fault.Invalidf("scheme is %q, must be https", u.Scheme)
	case u.User != nil || strings.ContainsAny(text, "?#@"):
		return fault.Invalidf("%q has a user, a query or a fragment", text)
	case strings.HasSuffix(text, "/"):
		return fault.Hint(fault.Invalidf("%q ends with a slash", text), "%s", strings.TrimRight(text, "/"))
	case u.Host != strings.ToLower(u.Host) || u.Port() == "443" || strings.HasSuffix(u.Host, ":"):
		return fault.Hint(fault.Invalidf("%q is not in its shortest form", text), "a host in lower case, without the usual port")
	case u.Path != "" && (u.EscapedPath() != u.Path || path.Clean(u.Path) != u.Path):
		return fault.Invalidf("path %q is not plain segments", u.EscapedPath())
	case u.String() != text:
		return fault.Invalidf("%q is not the form that would be compared, %q", text, u)
	}
	return nil
}
