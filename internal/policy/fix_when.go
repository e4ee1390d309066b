package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// narrowed is a condition that holds for the call that missed when, and that is no
// wider than it has to be: the clauses of when that held, and in place of each that
// did not, that what it read is what it was. It is "" where that cannot be said:
// facts that are not shown because they may be secret, that were not one plain
// value, times and lists. Of the miss, which is a node's word, only plain values are
// taken; what is asked of them is spelt as in when.
func narrowed(when string, miss NearMiss) string {
	c, err := compileCondition(when)
	if err != nil {
		return ""
	}
	want, got := miss.Want, miss.Got
	var parts []string
	for i := range c.clauses {
		rest, missed := cutPart(want, c.operand(i), " && ")
		if !missed {
			parts = append(parts, c.operand(i))
			continue
		}
		want = rest
		for j := range c.clauses[i].refs {
			pin, rest := pinned(&c.clauses[i].refs[j], got)
			if pin == "" {
				return ""
			}
			if got = rest; !slices.Contains(parts, pin) {
				parts = append(parts, pin)
			}
		}
	}
	text := strings.Join(parts, " && ")
	if _, err := compileCondition(text); err != nil || miss.Want == "" || want != "" || got != "" {
		return ""
	}
	return text
}

// operand is a clause as one of several that && joins.
func (c *condition) operand(i int) string {
	text := c.clauses[i].text
	if len(c.clauses) > 1 && (strings.Contains(text, "||") || strings.Contains(text, "?")) {
		return "(" + text + ")"
	}
	return text
}

// cutPart cuts the first of several parts that sep joins.
func cutPart(all, part, sep string) (rest string, found bool) {
	rest, found = strings.CutPrefix(all, part)
	if !found || part == "" {
		return all, false
	}
	if next, more := strings.CutPrefix(rest, sep); more && next != "" {
		return next, true
	}
	return rest, rest == ""
}

// pinned is the condition that ref is what got says first, as fact.shown wrote it,
// and what got says of others; "" if it is no plain value.
func pinned(ref *fact, got string) (pin, rest string) {
	if rest, missing := cutPart(got, ref.spelt+" is missing", ", "); missing && (ref.on == onHeader || ref.on == onQuery) {
		return "!present(" + ref.spelt + ")", rest
	}
	got, ok := strings.CutPrefix(got, ref.spelt+" is ")
	if !ok || ref.secret() {
		return "", ""
	}
	value := got
	switch quoted, err := strconv.QuotedPrefix(got); {
	case ref.kind == kindText && err == nil:
		value = quoted
	default:
		value, _, _ = strings.Cut(got, ", ")
	}
	rest, ok = cutPart(got, value, ", ")
	if !ok {
		return "", ""
	}
	switch ref.kind {
	case kindText:
		text, err := strconv.Unquote(value)
		if err != nil || strings.ContainsFunc(text, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
			return "", "" // CEL spells such bytes otherwise
		}
		return ref.spelt + " == " + value, rest
	case kindNumber:
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			return ref.spelt + " == " + strconv.FormatInt(n, 10), rest
		}
	case kindFlag:
		switch value {
		case "true":
			return ref.spelt, rest
		case "false":
			return "!" + ref.spelt, rest
		}
	case kindAddress:
		if a, err := netip.ParseAddr(value); err == nil && a.Zone() == "" {
			return ref.spelt + `.within("` + a.String() + `")`, rest
		}
	}
	return "", ""
}
