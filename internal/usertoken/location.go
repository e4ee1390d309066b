package usertoken

import (
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// location is one place of a request where a token may stand.
type location struct {
	kind place
	name string // of the header in its canonical form, the cookie or the parameter
}

type place uint8

const (
	inBearer place = iota // Authorization: Bearer …
	inHeader              // a header of its own
	inCookie
	inQuery
)

const bearer = "bearer"

// String is the location as it is written.
func (l location) String() string {
	switch l.kind {
	case inHeader:
		return "header " + l.name
	case inCookie:
		return "cookie " + l.name
	case inQuery:
		return "query " + l.name
	default:
		return bearer
	}
}

// locations are the provider's, parsed.
func (p Provider) locations() ([]location, error) {
	if len(p.Locations) == 0 {
		return []location{{}}, nil
	}
	if len(p.Locations) > maxLocations {
		return nil, fault.Invalidf("%d of them, at most %d", len(p.Locations), maxLocations)
	}
	var out []location
	for _, text := range p.Locations {
		l, err := parseLocation(text)
		if err != nil {
			return nil, err
		}
		if slices.Contains(out, l) {
			return nil, fault.Invalidf("%q is listed twice", clip(text))
		}
		out = append(out, l)
	}
	return out, nil
}

// parseLocation reads bearer, "header NAME", "cookie NAME" or "query NAME".
func parseLocation(text string) (location, error) {
	const form = `as in bearer, "header X-User-Token", "cookie session" or "query access_token"`
	if text == bearer {
		return location{}, nil
	}
	kind, name, _ := strings.Cut(text, " ")
	if len(name) > maxName || !isToken(name) {
		return location{}, fault.Hint(fault.Invalidf("%q is no location", clip(text)), form)
	}
	switch kind {
	case "header":
		l := location{inHeader, textproto.CanonicalMIMEHeaderKey(name)}
		if l.name == "Authorization" || l.name == "Cookie" || l.name == "Host" {
			return location{}, fault.Hint(fault.Invalidf("%q holds more than a token", clip(text)), form)
		}
		return l, nil
	case "cookie":
		return location{inCookie, name}, nil
	case "query":
		return location{inQuery, name}, nil
	default:
		return location{}, fault.Hint(fault.Invalidf("%q is no location", clip(text)), form)
	}
}

// isToken is RFC 9110 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}

// Carrier is the part of a request that tokens may stand in.
type Carrier struct {
	// Headers gives the values of a header by its canonical name, in the order they
	// came, as an http.Header does; nil if there are none.
	Headers interface{ Values(name string) []string }
	// Query is as it was sent, without the question mark.
	Query string
}

func (c Carrier) values(name string) []string {
	if c.Headers == nil {
		return nil
	}
	return c.Headers.Values(name)
}

var errTwo = errors.New("the request carries more than one token")

// find is what stands at a location, "" if nothing does. Two of anything, and a
// form that two programs could read differently, is an error: which of them the
// application behind would read is not for us to guess.
func (c Carrier) find(l location) (string, error) {
	switch l.kind {
	case inBearer:
		return findBearer(c.values("Authorization"))
	case inHeader:
		return single(c.values(l.name), l)
	case inCookie:
		return single(cookies(c.values("Cookie"), l.name), l)
	default:
		values, err := parameters(c.Query, l.name)
		if err != nil {
			return "", err
		}
		return single(values, l)
	}
}

// single is the one value there may be.
func single(values []string, l location) (string, error) {
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", errTwo
	case !compact(values[0]):
		return "", fmt.Errorf("%s holds no token", l)
	}
	return values[0], nil
}

// findBearer is RFC 6750 2.1: the scheme in any case, one space, the token. Another
// scheme is no token of ours.
func findBearer(values []string) (string, error) {
	if len(values) > 1 {
		return "", errors.New("the request has more than one Authorization header")
	}
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, found := strings.Cut(values[0], " ")
	if !strings.EqualFold(strings.TrimSpace(scheme), bearer) {
		if strings.HasPrefix(strings.ToLower(strings.TrimLeft(values[0], " \t")), bearer) {
			return "", errors.New("the Authorization header is malformed") // Bearer and a tab, a comma, nothing
		}
		return "", nil
	}
	if !found || !compact(token) {
		return "", errors.New("the Authorization header holds no token")
	}
	return token, nil
}

// compact is true for the characters of a JWS in compact serialization.
func compact(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return s != ""
}

// cookies are the values of all cookies of a name.
func cookies(lines []string, name string) []string {
	var out []string
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			key, value, _ := strings.Cut(pair, "=")
			if strings.TrimSpace(key) == name {
				out = append(out, strings.Trim(strings.TrimSpace(value), `"`))
			}
		}
	}
	return out
}

// parameters are the values of all parameters of a name, its escaped spellings
// included. Programs that part parameters at semicolons too see no more of them.
func parameters(query, name string) ([]string, error) {
	var out []string
	for pair := range strings.FieldsFuncSeq(query, func(r rune) bool { return r == '&' || r == ';' }) {
		key, value, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(key)
		if err != nil || key != name {
			continue // a name that cannot be read is nobody's
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, fmt.Errorf("query %s cannot be read", name)
		}
		out = append(out, value)
	}
	return out, nil
}
