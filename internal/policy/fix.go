package policy

import "strings"

// Fix is the one command that would allow what d denied, or "" where no allow
// could: another rule denied it, the path had no one reading, the caller has no
// identity to name, or all that is missing is a user's token. from and to are a service's name or an ID; method and path
// are empty for a connection. The path is taken as it is, never as a pattern.
//
// when is the condition of the rule that came closest, "" if it has none or is
// gone. Where only that was missed, the command has a condition too, one that this
// call meets. Where none can be told, or something else was missed and nobody has
// looked at the condition, a comment says that the command is wider than that rule.
func Fix(d Decision, from, to, method, path, when string) string {
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
	line := "kith allow " + quote(from) + " " + quote(action) + " on " + quote(to)
	switch {
	case d.Near.Field == FieldWhen:
		if kept := narrowed(when, d.Near); kept != "" {
			return line + " --when " + quote(kept)
		}
	case when == "":
		return line
	}
	return line + wider
}

// wider is said of a command that leaves a condition out.
const wider = "   # wider than the nearest rule: without its condition"

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
