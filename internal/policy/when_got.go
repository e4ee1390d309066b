package policy

import (
	"strconv"
	"strings"
	"time"
)

// maxShown bounds each value that a near miss shows.
const maxShown = 64

// got is what the clause read, for people: every fact with its value. What
// may be secret is not shown.
func (c *clause) got(in *input) string {
	var b strings.Builder
	for i := range c.refs {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.refs[i].spelt)
		b.WriteString(c.refs[i].shown(in))
	}
	return b.String()
}

// shown is " is "value"", or why there is none.
func (ref *fact) shown(in *input) string {
	there, known := in.present(ref)
	switch {
	case ref.on == onClaim && in.token() == TokenRefused:
		return " is of an invalid token"
	case ref.on == onClaim && in.token() == TokenNone:
		return " is missing: there is no token"
	case !known:
		return " is not one plain value"
	case !there:
		return " is missing"
	case ref.secret():
		return " is something else"
	}
	value := ref.value(in)
	if len(value) > maxShown {
		value = value[:maxShown] + "..."
	}
	return " is " + value
}

// value is what ref reads as a condition would spell it.
func (ref *fact) value(in *input) string {
	switch ref.kind {
	case kindNumber:
		n, _ := in.number(ref)
		return strconv.FormatInt(n, 10)
	case kindFlag:
		flag, _ := in.flag(ref)
		return strconv.FormatBool(flag)
	case kindMoment:
		now, _ := in.moment()
		return now.Format(time.RFC3339)
	case kindAddress:
		address, _ := in.address()
		return address.String()
	case kindList:
		var entries []string
		in.list(ref, func(s string) bool {
			entries = append(entries, strconv.Quote(s))
			return len(entries) == 8
		})
		return "[" + strings.Join(entries, ", ") + "]"
	default:
		text, _ := in.text(ref)
		return strconv.Quote(text)
	}
}

// secret is true for what does not belong in a report: what a person is known by,
// and fields that carry credentials.
func (ref *fact) secret() bool {
	switch ref.on {
	case onClaim:
		return ref.kind == kindText && ref.spelt != "jwt.iss" && ref.spelt != "jwt.azp"
	case onHeader, onQuery:
		name := strings.ToLower(ref.name)
		for _, word := range []string{"auth", "cookie", "token", "secret", "key", "passw", "session", "sig", "code", "credential"} {
			if strings.Contains(name, word) {
				return true
			}
		}
	}
	return false
}
