package policy

import "strings"

// Fix is the one command that would allow what d denied, or "" where no allow
// could: another rule denied it, the path had no one reading, the caller has no
// identity to name, or all that is missing is a user's token. from and to are a service's name or an ID; method and path
// are empty for a connection. The path is taken as it is, never as a pattern.
func Fix(d Decision, from, to, method, path string) string {
	switch {
	case !d.Denies() || from == "" || to == "" || from == "anonymous" || d.Near.Field == FieldProtocol:
		return ""
	}
	switch d.Reason {
	case NoRule, NoSource, UnknownTrustDomain, CondFalse:
	case CondError:
		if d.Rule != "" {
			return "" // a deny
		}
	default:
		return ""
	}
	action := "tcp"
	switch {
	case method != "" || path != "":
		action = method + " " + strings.NewReplacer("*", "%2A", "{", "%7B", "}", "%7D").Replace(path)
	case d.Near.Field == FieldPort && d.Near.Got != "unknown":
		action = "tcp " + d.Near.Got
	}
	if _, err := ParseAction(action); err != nil {
		return ""
	}
	if _, err := parseSource(from); err != nil {
		return "" // an ID that no rule can name, for its depth
	}
	return "kith allow " + quote(from) + " " + quote(action) + " on " + quote(to)
}

// Quote makes s one word to a POSIX shell.
func Quote(s string) string { return quote(s) }

// quote is Quote.
func quote(s string) string {
	plain := true
	for i := range len(s) {
		plain = plain && (unreserved(s[i]) || strings.IndexByte("/:@%+,=", s[i]) >= 0)
	}
	switch {
	case plain && s != "":
		return s
	case !strings.ContainsAny(s, "\"$`\\!"):
		return `"` + s + `"`
	default:
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
}
