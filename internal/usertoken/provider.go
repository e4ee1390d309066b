// Package usertoken says which tokens of end users count: whose (providers),
// where in a request they stand, and when one is good. It fetches no key, reads
// no clock and decides nothing; it leaves signatures to spiffe and conditions to
// policy.
package usertoken

import (
	"net/url"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxName       = 63
	maxIssuer     = 512
	maxURL        = 2 << 10
	maxAudiences  = 64
	maxAudience   = 256
	maxLocations  = 8
	maxServices   = 256
	maxInlineKeys = 64 << 10
	// MaxProviders bounds those of one trust domain: every agent holds all of them.
	MaxProviders = 256
)

// Provider is somebody who signs tokens for end users: an OpenID provider, as a
// rule.
type Provider struct {
	Name string
	// Issuer is iss of its tokens, letter by letter.
	Issuer string
	// Audiences are the names under which services here go at the provider; a
	// token must be for one of them.
	Audiences []string
	// URL is where its keys are published as a JWK Set; Keys is that set itself,
	// for a provider that agents cannot or must not ask. One of the two is given.
	URL  string
	Keys string
	// Algorithms are those its tokens may be signed with; empty: all that spiffe
	// knows.
	Algorithms []string
	// Locations say where requests carry the token; empty: bearer.
	Locations []string
	// Services are those the provider is for; empty: all.
	Services []string
	// Bound refuses tokens that are not bound to the caller's certificate
	// (RFC 8705 3); those that are bound are held to it in any case.
	Bound bool
	Owner string
}

// For says whether the provider is one of a service's.
func (p Provider) For(service string) bool {
	return len(p.Services) == 0 || slices.Contains(p.Services, service)
}

// Validate checks everything about the provider that needs no other object.
func (p Provider) Validate() error {
	at := "providers." + p.Name
	if err := checkName(p.Name); err != nil {
		return fault.Invalidf("providers: %w", err)
	}
	checks := []struct {
		field string
		err   error
	}{
		{"issuer", checkIssuer(p.Issuer)},
		{"audiences", checkAudiences(p.Audiences)},
		{"jwks", p.checkKeys()},
		{"algorithms", checkAlgorithms(p.Algorithms)},
		{"services", checkServices(p.Services)},
	}
	for _, c := range checks {
		if c.err != nil {
			return fault.Hint(fault.Invalidf("%s.%s: %w", at, c.field, c.err), "%s", fault.HintOf(c.err))
		}
	}
	_, err := p.locations()
	if err != nil {
		return fault.Hint(fault.Invalidf("%s.locations: %w", at, err), "%s", fault.HintOf(err))
	}
	return nil
}

// Warnings are what an operator should know of a sound provider.
func (p Provider) Warnings() []string {
	at := "providers." + p.Name
	var out []string
	if strings.HasPrefix(p.URL, "http://") {
		out = append(out, at+".jwks.url: plain HTTP, so agents ask it only where agent.user_tokens.hosts lists its host")
	}
	if places, err := p.locations(); err == nil && slices.ContainsFunc(places, func(l location) bool { return l.kind == inQuery }) {
		out = append(out, at+".locations: a token in a query ends up in logs and histories")
	}
	return out
}

// checkName is the form of names of services and rules, so that one can stand in
// a condition as well.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fault.Invalidf("name has not 1 to %d characters", maxName)
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0 || i == len(name)-1) {
			return fault.Hint(fault.Invalidf("name %q: only a-z, 0-9 and inner hyphens", clip(name)), "names are lower-case, as in login")
		}
	}
	return nil
}

func checkIssuer(issuer string) error {
	if issuer == "" || len(issuer) > maxIssuer || !printable(issuer) {
		return fault.Hint(fault.Invalidf("issuer has not 1 to %d printable characters", maxIssuer),
			"it is iss of the provider's tokens, as in https://login.example")
	}
	return nil
}

func checkAudiences(audiences []string) error {
	if len(audiences) == 0 || len(audiences) > maxAudiences {
		return fault.Hint(fault.Invalidf("not 1 to %d of them", maxAudiences),
			"aud of the tokens that are meant for your services; a token for anybody is for nobody")
	}
	for i, a := range audiences {
		if a == "" || len(a) > maxAudience || !printable(a) {
			return fault.Invalidf("%q has not 1 to %d printable characters", clip(a), maxAudience)
		}
		if slices.Contains(audiences[:i], a) {
			return fault.Invalidf("%q is listed twice", clip(a))
		}
	}
	return nil
}

func (p Provider) checkKeys() error {
	switch {
	case p.URL == "" && p.Keys == "":
		return fault.Hint(fault.Invalidf("empty"), "url: https://… where the provider publishes its keys, or the keys themselves as inline: or file:")
	case p.URL != "" && p.Keys != "":
		return fault.Invalidf("both a url and the keys themselves")
	case len(p.Keys) > maxInlineKeys:
		return fault.Invalidf("inline keys of more than %d bytes", maxInlineKeys)
	case p.Keys != "":
		if _, err := spiffe.ParseJWKSet([]byte(p.Keys)); err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
		return nil
	}
	return CheckURL(p.URL)
}

// CheckURL accepts where keys may be published: an https or http URL of a host
// and a path, and nothing that makes it mean two things.
func CheckURL(text string) error {
	const form = "as in https://login.example/.well-known/jwks.json"
	if len(text) > maxURL || !printable(text) {
		return fault.Hint(fault.Invalidf("url has more than %d characters, or some that cannot be printed", maxURL), form)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return fault.Hint(fault.Invalidf("url %q cannot be read", clip(text)), form)
	case u.Scheme != "https" && u.Scheme != "http":
		return fault.Hint(fault.Invalidf("url %q is neither https nor http", clip(text)), form)
	case u.Hostname() == "" || u.Opaque != "":
		return fault.Hint(fault.Invalidf("url %q has no host", clip(text)), form)
	case u.User != nil:
		return fault.Invalidf("url %q carries a user: keys are public", clip(text))
	case u.Fragment != "" || strings.Contains(text, "#"):
		return fault.Invalidf("url %q has a fragment", clip(text))
	}
	return nil
}

func checkAlgorithms(algorithms []string) error {
	known := spiffe.UserTokenAlgorithms()
	for i, alg := range algorithms {
		if !slices.Contains(known, alg) {
			return fault.Hint(fault.Invalidf("unknown algorithm %q", clip(alg)), "those accepted: %s", strings.Join(known, ", "))
		}
		if slices.Contains(algorithms[:i], alg) {
			return fault.Invalidf("%s is listed twice", alg)
		}
	}
	return nil
}

func checkServices(services []string) error {
	if len(services) > maxServices {
		return fault.Invalidf("%d services, at most %d", len(services), maxServices)
	}
	for i, s := range services {
		if err := checkName(s); err != nil {
			return err
		}
		if slices.Contains(services[:i], s) {
			return fault.Invalidf("%s is listed twice", s)
		}
	}
	return nil
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// clip keeps what somebody else wrote short in an error.
func clip(s string) string {
	const most = 96
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
