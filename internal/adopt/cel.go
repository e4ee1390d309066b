package adopt

import (
	"slices"
	"strconv"
	"strings"
)

// literal is a text as CEL spells it.
func literal(text string) string { return strconv.QuoteToASCII(text) }

func literals(texts []string) string {
	quoted := make([]string, 0, len(texts))
	for _, t := range texts {
		quoted = append(quoted, literal(t))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// allOf is the conjunction of conditions; empty for none.
func allOf(conditions []string) string {
	if len(conditions) == 1 {
		return conditions[0]
	}
	wrapped := make([]string, 0, len(conditions))
	for _, c := range conditions {
		wrapped = append(wrapped, wrap(c))
	}
	return strings.Join(wrapped, " && ")
}

func anyOf(conditions []string) string {
	if len(conditions) == 1 {
		return conditions[0]
	}
	wrapped := make([]string, 0, len(conditions))
	for _, c := range conditions {
		wrapped = append(wrapped, wrap(c))
	}
	return strings.Join(wrapped, " || ")
}

func not(condition string) string { return "!(" + condition + ")" }

// wrap puts a condition with operators into brackets.
func wrap(condition string) string {
	if strings.Contains(condition, "&&") || strings.Contains(condition, "||") || strings.Contains(condition, "?") {
		return "(" + condition + ")"
	}
	return condition
}

// matches is a condition that subject has one of the values, in the forms that
// Istio gives a value: exact, prefix*, *suffix, * for being there. A value with
// a star elsewhere is that text.
func matches(subject string, values []string, optional bool) string {
	var exact, out []string
	if optional && slices.Contains(values, "*") {
		return "present(" + subject + ")"
	}
	for _, v := range values {
		switch {
		case v == "*":
			out = append(out, "size("+subject+") > 0")
		case strings.HasPrefix(v, "*"):
			out = append(out, subject+".endsWith("+literal(v[1:])+")")
		case strings.HasSuffix(v, "*"):
			out = append(out, subject+".startsWith("+literal(strings.TrimSuffix(v, "*"))+")")
		default:
			exact = append(exact, v)
		}
	}
	switch len(exact) {
	case 0:
	case 1:
		out = append(out, subject+" == "+literal(exact[0]))
	default:
		out = append(out, subject+" in "+literals(exact))
	}
	condition := anyOf(out)
	if optional {
		return "present(" + subject + ") && " + wrap(condition)
	}
	return condition
}
