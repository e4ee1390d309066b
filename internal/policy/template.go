package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

const (
	maxSegments = 32  // of a template or an identity pattern
	maxLiteral  = 256 // bytes of one literal segment
)

// part is one segment of a template. The kind alone says what it matches, so no
// text that came from a name can ever act as a pattern.
type part struct {
	kind partKind
	text string // literal: as matched; one: the variable's name, or ""
}

type partKind uint8

const (
	literal partKind = iota // this segment
	one                     // any one segment that is not empty
	rest                    // zero or more segments
)

// actionRoom is memory for the parts of many actions, had in larger pieces, and for
// the methods of one: those are good until the next is parsed. The nil one is none,
// and each gets its own.
type actionRoom struct {
	piece   int // how many parts are had at once
	parts   []part
	methods [maxActionMethods]string
}

func (r *actionRoom) partsFor(n int) []part {
	if r == nil {
		return make([]part, 0, n)
	}
	return take(&r.parts, n, r.piece)
}

func (r *actionRoom) methodsFor(n int) []string {
	if r == nil {
		return make([]string, 0, n)
	}
	return r.methods[:0:n]
}

// take is the next n of a piece, or of a new one of some size, as an empty slice.
func take[T any](piece *[]T, n, size int) []T {
	if len(*piece) < n {
		*piece = make([]T, max(n, size))
	}
	taken := (*piece)[:0:n]
	*piece = (*piece)[n:]
	return taken
}

// parseTemplate reads an HTTP path template.
func parseTemplate(path string, room *actionRoom) ([]part, error) {
	if path == "" || path[0] != '/' {
		return nil, fault.Hint(fault.Invalidf("path %q does not begin with /", path), "write /%s", path)
	}
	segments := strings.Count(path, "/")
	if segments > maxSegments {
		return nil, fault.Invalidf("path has more than %d segments", maxSegments)
	}
	parts := room.partsFor(segments)
	open := false
	for s, after, more := "", path[1:], true; more; {
		s, after, more = strings.Cut(after, "/")
		p, err := parsePart(s)
		if err != nil {
			return nil, err
		}
		if p.kind == rest {
			if open {
				return nil, fault.Invalidf("path has {**} twice")
			}
			open = true
		}
		parts = append(parts, p)
	}
	return parts, nil
}

func parsePart(s string) (part, error) {
	if isWord(s) {
		return part{text: s}, nil
	}
	if s == "*" || s == "{*}" {
		return part{kind: one}, nil
	}
	if s == "{**}" {
		return part{kind: rest}, nil
	}
	if name, ok := strings.CutPrefix(s, "{"); ok {
		if name, ok = strings.CutSuffix(name, "}"); ok && isVariable(name) {
			return part{kind: one, text: name}, nil
		}
	}
	if strings.ContainsAny(s, "*{}") {
		err := fault.Invalidf("segment %q mixes text and a wildcard", s)
		if s == "**" {
			return part{}, fault.Hint(fault.Invalidf("segment ** has no braces"), "write {**} for any number of segments")
		}
		return part{}, fault.Hint(err, "* and {name} stand for one whole segment, {**} for any number; write %%2A, %%7B, %%7D for the characters")
	}
	return parseLiteral(s)
}

// isWord is true for most literals: nothing in them has another spelling.
func isWord(s string) bool {
	for i := range len(s) {
		if !unreserved(s[i]) {
			return false
		}
	}
	return s != "" && s[0] != '.' && len(s) <= maxLiteral
}

// parseLiteral brings one literal segment into the spelling paths are matched in.
func parseLiteral(s string) (part, error) {
	if strings.ContainsAny(s, "?#") {
		return part{}, fault.Hint(fault.Invalidf("segment %q: a query or fragment is no part of a path", s), "leave out what follows ? or #")
	}
	out, err := unescape(nil, nil, s, true)
	if err == nil {
		err = checkEscapes(out)
	}
	switch {
	case err != nil:
		return part{}, fault.Wrap(fault.Invalid, err)
	case string(out) == "." || string(out) == "..":
		return part{}, fault.Invalidf("path has a dot segment")
	case len(out) > maxLiteral:
		return part{}, fault.Invalidf("segment is longer than %d bytes", maxLiteral)
	}
	if out = fold(nil, string(out)); string(out) == s {
		return part{text: s}, nil // shares the rule's memory
	}
	return part{text: string(out)}, nil
}

func isVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c != '-' && c != '.' && (c < '0' || c > '9')) {
			return false
		}
	}
	return name != ""
}

// templateText is the canonical text of parts; parseTemplate reads it back.
func templateText(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		switch {
		case p.kind == rest:
			b.WriteString("{**}")
		case p.kind == literal:
			b.WriteString(strings.ReplaceAll(p.text, "*", "%2A"))
		case p.text == "":
			b.WriteByte('*')
		default:
			b.WriteString("{" + p.text + "}")
		}
	}
	return b.String()
}

// covers is true if everything b matches is matched by a.
func covers(a, b []part) bool {
	open := openAt(a)
	if open < 0 {
		return len(a) == len(b) && openAt(b) < 0 && coverEach(a, b)
	}
	head, tail := a[:open], a[open+1:]
	if openB := openAt(b); openB >= 0 {
		return len(head) <= openB && len(tail) <= len(b)-openB-1 &&
			coverEach(head, b[:len(head)]) && coverEach(tail, b[len(b)-len(tail):])
	}
	return len(head)+len(tail) <= len(b) &&
		coverEach(head, b[:len(head)]) && coverEach(tail, b[len(b)-len(tail):])
}

// openAt is the index of {**} in parts, or -1.
func openAt(parts []part) int {
	for i, p := range parts {
		if p.kind == rest {
			return i
		}
	}
	return -1
}

func coverEach(a, b []part) bool {
	for i, p := range a {
		switch {
		case p.kind == literal && (b[i].kind != literal || b[i].text != p.text):
			return false
		case p.kind == one && b[i].kind == literal && b[i].text == "":
			return false
		}
	}
	return true
}
