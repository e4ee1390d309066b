package policy

import (
	"net/url"
	"strings"
)

// query is the value of a parameter and how often it comes. Where readers could
// differ about a query - bad escapes, ; between pairs, bytes that must be escaped
// - no parameter has a value, and n is 2.
func (in *input) query(name string) (value string, n int) {
	if in.r.Facts == nil || in.r.Facts.Query == "" {
		return "", 0
	}
	return parameter(in.r.Facts.Query, name)
}

func parameter(query, name string) (value string, n int) {
	if len(query) > maxQuery {
		return "", 2
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, raw, _ := strings.Cut(pair, "=")
		if !clearQuery(pair) {
			return "", 2
		}
		if key != name {
			if strings.IndexByte(key, '%') < 0 && strings.IndexByte(key, '+') < 0 {
				continue
			}
			if decoded, err := url.QueryUnescape(key); err != nil || decoded != name {
				continue
			}
		}
		if n++; n > 1 {
			return "", n
		}
		value = raw
	}
	if strings.IndexByte(value, '%') >= 0 || strings.IndexByte(value, '+') >= 0 {
		decoded, err := url.QueryUnescape(value)
		if err != nil {
			return "", 2
		}
		value = decoded
	}
	return value, n
}

// clearQuery is false for what readers of a query read in several ways.
func clearQuery(s string) bool {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c <= ' ', c >= 0x7f, c == ';', c == '#':
			return false
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return false
			}
			i += 2
		}
	}
	return true
}
