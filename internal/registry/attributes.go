package registry

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/fault"
)

// Attributes are facts about one node or workload: flat dotted names and
// values in canonical text. Integers are decimal without leading zeros,
// booleans true or false, lists their elements joined by commas, maps key=value
// joined by commas. An empty value is the same as an absent one.
type Attributes map[string]string

// What a set of attributes may hold, counted as the text form.
const (
	MaxAttributesBytes = 16 << 10
	maxAttributeName   = 128
	maxAttributeValue  = 4 << 10
	maxListElements    = 1024
)

// Validate refuses a set that is too big, a malformed name or value, and a
// value that is not of its attribute's type. Names the schema does not know
// are allowed: an agent may be newer, and no rule can name them.
func (a Attributes) Validate() error {
	for name, value := range a {
		if err := validateAttribute(name, value); err != nil {
			return err
		}
	}
	return a.checkSize()
}

func (a Attributes) checkSize() error {
	total := 0
	for name, value := range a {
		total += len(name) + len(value) + 2
	}
	if total > MaxAttributesBytes {
		return fault.Invalidf("attributes of %d bytes; at most %d", total, MaxAttributesBytes)
	}
	return nil
}

func validateAttribute(name, value string) error {
	if err := validateAttributeName(name); err != nil {
		return err
	}
	if len(value) > maxAttributeValue {
		return fault.Invalidf("attribute %s: value of %d bytes; at most %d", name, len(value), maxAttributeValue)
	}
	if !utf8.ValidString(value) {
		return fault.Invalidf("attribute %s: value is not UTF-8", name)
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.Invalidf("attribute %s: value holds a control character", name)
	}
	if d, ok := schema.find(name); ok && value != "" {
		if _, err := d.Type.parse(value); err != nil {
			return fault.Invalidf("attribute %s: %w", name, err)
		}
	}
	return nil
}

func validateAttributeName(name string) error {
	if len(name) > maxAttributeName {
		return fault.Invalidf("attribute name of %d bytes; at most %d", len(name), maxAttributeName)
	}
	parts := strings.Split(name, ".")
	if len(parts) < 2 || parts[0] != "node" && parts[0] != "workload" {
		return fault.Invalidf("attribute name %q does not start with node. or workload.", name)
	}
	for _, part := range parts {
		if !identifier(part) {
			return fault.Invalidf("attribute name %q: want words of [a-z0-9_] joined by dots", name)
		}
	}
	return nil
}

// identifier reports whether s is a lower-case word usable as a CEL selector.
func identifier(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c == '_' || i > 0 && c >= '0' && c <= '9' {
			continue
		}
		return false
	}
	return s != ""
}

// Text is the canonical text form: a line name=value per attribute, sorted.
func (a Attributes) Text() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if a[name] == "" {
			continue
		}
		b.WriteString(name)
		b.WriteByte('=')
		b.WriteString(a[name])
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// ParseAttributes reads the text form. Empty lines and lines that begin with #
// are allowed, so that people can write a set to try rules on.
func ParseAttributes(text []byte) (Attributes, error) {
	if len(text) > MaxAttributesBytes {
		return nil, fault.Invalidf("attributes of %d bytes; at most %d", len(text), MaxAttributesBytes)
	}
	attrs := Attributes{}
	n := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		n++
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fault.Invalidf("attributes line %d: want name=value", n)
		}
		if _, twice := attrs[name]; twice {
			return nil, fault.Invalidf("attributes line %d: %s is given twice", n, name)
		}
		if value == "" {
			continue
		}
		if err := validateAttribute(name, value); err != nil {
			return nil, fault.Invalidf("attributes line %d: %w", n, err)
		}
		attrs[name] = value
	}
	return attrs, attrs.checkSize() // a last line without its end is one byte shorter than it counts
}

// Combine makes the set that rules are evaluated on: node.* only from the
// server's own knowledge of the node, workload.* only from the agent. Whatever
// node.* an agent sends is ignored.
func Combine(node, workload Attributes) Attributes {
	all := make(Attributes, len(node)+len(workload))
	for name, value := range node {
		if strings.HasPrefix(name, nodeScope) {
			all[name] = value
		}
	}
	for name, value := range workload {
		if strings.HasPrefix(name, workloadScope) {
			all[name] = value
		}
	}
	return all
}

// Workload is the workload.* part of the set: all that an agent may send.
func (a Attributes) Workload() Attributes { return Combine(nil, a) }

// Int is the canonical text of an integer attribute.
func Int(n int64) string { return strconv.FormatInt(n, 10) }

// List is the canonical text of a list attribute: sorted, without duplicates,
// and without the empty elements and those with a comma, which no list can hold.
func List(elements ...string) string {
	kept := slices.DeleteFunc(slices.Clone(elements), func(e string) bool {
		return e == "" || strings.Contains(e, ",")
	})
	slices.Sort(kept)
	return strings.Join(slices.Compact(kept), ",")
}

// Map is the canonical text of a map attribute, and "" where some entry cannot be
// held: a requirement must never pass because an entry is missing.
func Map(entries map[string]string) string {
	pairs := make([]string, 0, len(entries))
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if key == "" || strings.ContainsAny(key, ",=") || strings.ContainsAny(entries[key], ",=") {
			return ""
		}
		pairs = append(pairs, key+"="+entries[key])
	}
	return strings.Join(pairs, ",")
}
