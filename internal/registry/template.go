package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// reservedSegment is the first path segment of nodes, servers and admins. No
// template may reach it.
const reservedSegment = "kith"

// Bounds of a template. maxTemplate leaves room for the ID it renders.
const (
	maxTemplate = 1024
	maxSlots    = 16
	maxFilters  = 8
	hashBytes   = 16 // 128 bits in 32 hex characters
)

// template is a parsed ID template such as
// /{node.class}/{workload.systemd.unit|trim(.service)}. It has no loops,
// conditions or recursion: rendering takes time linear in its size.
type template struct {
	text     string
	segments []segment
}

// segment is one path segment: literals and slots in order.
type segment []part

// part is a literal, or a slot if attr is set.
type part struct {
	literal string
	attr    string
	filters []filter
}

type filter struct {
	name string // slug, hash, lower or trim
	arg  string // trim's suffix
}

// parseTemplate reads a template against a schema.
func parseTemplate(text string, schema definitions) (*template, error) {
	switch {
	case text == "":
		return nil, fault.Invalidf("empty template")
	case len(text) > maxTemplate:
		return nil, fault.Invalidf("template of %d bytes; at most %d", len(text), maxTemplate)
	case text[0] != '/':
		return nil, fault.Hint(fault.Invalidf("template %q does not start with /", text), "write the path below the trust domain, such as /{node.class}/{workload.kith.as}")
	}
	t := &template{text: text}
	p := templateParser{schema: schema}
	for _, raw := range splitSegments(text[1:]) {
		s, err := p.segment(raw)
		if err != nil {
			return nil, fault.Invalidf("template %s: %w", text, err)
		}
		t.segments = append(t.segments, s)
	}
	if p.slots > maxSlots {
		return nil, fault.Invalidf("template %s names %d attributes; at most %d", text, p.slots, maxSlots)
	}
	if err := t.checkReserved(); err != nil {
		return nil, err
	}
	return t, nil
}

// splitSegments splits at slashes outside braces, so that the error for a
// slash in a filter names the filter.
func splitSegments(s string) []string {
	var out []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			depth--
		case '/':
			if depth <= 0 {
				out = append(out, s[start:i])
				start = i + 1
			}
		}
	}
	return append(out, s[start:])
}

type templateParser struct {
	schema definitions
	slots  int
}

func (p *templateParser) segment(raw string) (segment, error) {
	if raw == "" {
		return nil, fault.Invalidf("empty segment")
	}
	var s segment
	for rest := raw; rest != ""; {
		open := strings.IndexByte(rest, '{')
		if open != 0 {
			literal := rest
			if open > 0 {
				literal = rest[:open]
			}
			if i := firstUnsafe(literal); i >= 0 {
				return nil, fault.Invalidf("character %q; literals are of [A-Za-z0-9._-]", literal[i])
			}
			s = append(s, part{literal: literal})
			rest = rest[len(literal):]
			continue
		}
		end := strings.IndexByte(rest, '}')
		if end < 0 {
			return nil, fault.Invalidf("%q is not closed with }", rest)
		}
		slot, err := p.slot(rest[1:end])
		if err != nil {
			return nil, err
		}
		s = append(s, slot)
		rest = rest[end+1:]
	}
	if len(s) == 1 && (s[0].literal == "." || s[0].literal == "..") {
		return nil, fault.Invalidf("segment %q", s[0].literal)
	}
	return s, nil
}

func (p *templateParser) slot(raw string) (part, error) {
	p.slots++
	words := strings.Split(raw, "|")
	name := words[0]
	d, ok := p.schema.find(name)
	if !ok {
		return part{}, p.schema.unknown(name)
	}
	if d.Type == TypeList || d.Type == TypeMap {
		return part{}, fault.Invalidf("%s is a %s and cannot be a segment", name, d.Type)
	}
	if len(words)-1 > maxFilters {
		return part{}, fault.Invalidf("%s has %d filters; at most %d", name, len(words)-1, maxFilters)
	}
	out := part{attr: name}
	for _, word := range words[1:] {
		f, err := parseFilter(word)
		if err != nil {
			return part{}, err
		}
		out.filters = append(out.filters, f)
	}
	return out, nil
}

func parseFilter(word string) (filter, error) {
	name, arg, hasArg := strings.Cut(word, "(")
	names := []string{"slug", "hash", "trim", "lower"}
	if !slices.Contains(names, name) {
		return filter{}, fault.Invalidf("unknown filter %q; there are slug, hash, trim(suffix) and lower%s", name, didYouMean(name, names))
	}
	if name != "trim" {
		if hasArg {
			return filter{}, fault.Invalidf("filter %s takes no argument", name)
		}
		return filter{name: name}, nil
	}
	arg, closed := strings.CutSuffix(arg, ")")
	if !hasArg || !closed || arg == "" || strings.ContainsAny(arg, "(){}|") {
		return filter{}, fault.Invalidf("filter %q; want trim(suffix), such as trim(.service)", word)
	}
	return filter{name: "trim", arg: arg}, nil
}

// checkReserved refuses a template whose literal start is, or could be
// completed to, the reserved first segment. A first segment that is all
// variable is checked when it is rendered.
func (t *template) checkReserved() error {
	first := t.segments[0]
	literal := first[0].literal
	whole := len(first) == 1 && first[0].attr == ""
	if whole && literal == reservedSegment || !whole && literal != "" && strings.HasPrefix(reservedSegment, literal) && literal != reservedSegment {
		return fault.Hint(fault.Invalidf("template %s could reach /%s/, which is reserved", t.text, reservedSegment),
			"start the template with {node.class} or another word")
	}
	return nil
}

// attributes is every attribute the template names, in order, once.
func (t *template) attributes() []string {
	var names []string
	for _, s := range t.segments {
		for _, p := range s {
			if p.attr != "" && !slices.Contains(names, p.attr) {
				names = append(names, p.attr)
			}
		}
	}
	return names
}

// scopedByNode reports whether the first varying segment holds node.*
// attributes and nothing else that varies.
func (t *template) scopedByNode() bool {
	for _, s := range t.segments {
		varying := false
		for _, p := range s {
			if p.attr == "" {
				continue
			}
			if !strings.HasPrefix(p.attr, nodeScope) {
				return false
			}
			varying = true
		}
		if varying {
			return true
		}
	}
	return false
}

// render makes the path. Every attribute must be there and not empty. An
// error says which value cannot become a segment, and how to allow it.
func (t *template) render(attrs Attributes) (string, error) {
	var b strings.Builder
	for i, s := range t.segments {
		text, err := s.render(attrs)
		if err != nil {
			return "", err
		}
		if i == 0 && text == reservedSegment {
			return "", fault.Deniedf("the ID would be under /%s/, which is reserved", reservedSegment)
		}
		b.WriteByte('/')
		b.WriteString(text)
	}
	return b.String(), nil
}

func (s segment) render(attrs Attributes) (string, error) {
	var b strings.Builder
	for _, p := range s {
		if p.attr == "" {
			b.WriteString(p.literal)
			continue
		}
		value := attrs[p.attr]
		for _, f := range p.filters {
			value = f.apply(value)
		}
		if value == "" {
			return "", fault.Invalidf("%s is empty after its filters", p.attr)
		}
		if i := firstUnsafe(value); i >= 0 {
			return "", fault.Invalidf("%s holds %q, which an ID cannot; filter it with slug or hash", p.attr, value[i])
		}
		b.WriteString(value)
	}
	text := b.String()
	if text == "." || text == ".." {
		return "", fault.Invalidf("a segment would be %q", text)
	}
	return text, nil
}

func (f filter) apply(value string) string {
	switch f.name {
	case "lower":
		return strings.ToLower(value)
	case "trim":
		return strings.TrimSuffix(value, f.arg)
	case "hash":
		sum := sha256.Sum256([]byte(value))
		return hex.EncodeToString(sum[:hashBytes])
	default:
		return slug(value)
	}
}

// slug replaces each run of characters an ID cannot hold by one "-" and cuts
// "-" off both ends. Different values can become the same slug; hash cannot.
func slug(value string) string {
	var b strings.Builder
	gap := false
	for i := range len(value) {
		if firstUnsafe(value[i:i+1]) >= 0 {
			gap = true
			continue
		}
		if gap {
			b.WriteByte('-')
			gap = false
		}
		b.WriteByte(value[i])
	}
	return strings.Trim(b.String(), "-")
}
