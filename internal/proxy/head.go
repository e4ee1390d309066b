package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"

	"github.com/kith-id/kith/internal/policy"
)

// errHead says that two programs could read a request head as two requests. The
// caller learns no more than 400.
var errHead = errors.New("ambiguous request head")

// maxHead is how much of a request head is looked at; net/http refuses a longer
// one with 431.
const maxHead = 64 << 10

// head is the head of an HTTP/1 request. Its slices are parts of the bytes it was
// read from.
type head struct {
	method, target, host []byte

	fields  []field
	length  int64 // of the body; -1 if it is not said
	chunked bool
	http10  bool
	closes  bool // the caller wants no further request on this connection

	// What makes a request another than the usual one.
	names       bool // Connection names other fields
	upgrade     bool
	expect      bool
	grpc        bool
	eventStream bool
	idempotent  bool // it says so itself
}

// read checks the head of an HTTP/1 request, up to and with its blank line,
// more strictly than net/http, which repairs what it can: here a request that
// needs repair is refused, because the next program might repair it otherwise.
// RFC 9112 besides what readFields wants: one Host (3.2), not both Content-Length
// and Transfer-Encoding and neither twice (6.3), and an absolute target agrees
// with Host (3.2.2).
func (h *head) read(text []byte) error {
	*h = head{fields: h.fields[:0], length: -1}
	line, rest, ok := cutLine(text)
	if !ok {
		return errHead
	}
	method, after, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(after, []byte(" "))
	if h.http10 = string(version) == "HTTP/1.0"; !ok1 || !ok2 || !isToken(method) || len(target) == 0 ||
		!h.http10 && string(version) != "HTTP/1.1" {
		return errHead
	}
	h.method, h.target = method, target
	var err error
	if h.fields, rest, err = readFields(rest, h.fields); err != nil {
		return err
	}
	hosts := 0
	for i := range h.fields {
		if h.fields[i].kind == hostField {
			hosts++
		}
		if err := h.note(&h.fields[i]); err != nil {
			return err
		}
	}
	switch {
	case len(rest) > 0,
		h.chunked && h.length >= 0,
		h.chunked && h.http10,
		hosts > 1,
		hosts == 0 && !h.http10:
		return errHead
	}
	if authority, absolute := authorityOf(target); absolute && !sameWord(authority, string(h.host)) {
		return errHead
	}
	return nil
}

// note takes one field. It refuses a second one of those that frame a message.
func (h *head) note(f *field) error {
	switch f.kind {
	case hostField:
		h.host = f.value
	case lengthField:
		n, err := strconv.ParseUint(string(f.value), 10, 63)
		if h.length >= 0 || err != nil || f.value[0] == '+' {
			return errHead
		}
		h.length = int64(n)
	case encodingField:
		if h.chunked || !sameWord(f.value, "chunked") {
			return errHead
		}
		h.chunked = true
	case connectionField:
		closes, names := connectionSays(f.value)
		h.closes, h.names = h.closes || closes, h.names || names
	case upgradeField:
		h.upgrade = true
	case expectField:
		h.expect = true
	case acceptField:
		h.eventStream = h.eventStream || bytes.Contains(f.value, []byte("text/event-stream"))
	case typeField:
		h.grpc = h.grpc || bytes.HasPrefix(f.value, []byte("application/grpc"))
	case idempotencyField:
		h.idempotent = true
	}
	return nil
}

// value is that of the first field of a name in lower case, "" if there is none.
func (h *head) value(name string) string {
	for i := range h.fields {
		if bytes.EqualFold(h.fields[i].name, []byte(name)) {
			return string(h.fields[i].value)
		}
	}
	return ""
}

// Values are those of all fields of a name, for rules with conditions.
func (h *head) Values(name string) (values []string) {
	for i := range h.fields {
		if bytes.EqualFold(h.fields[i].name, []byte(name)) {
			values = append(values, string(h.fields[i].value))
		}
	}
	return values
}

// Respelt implements policy.Respelling.
func (h *head) Respelt(name string) bool {
	for i := range h.fields {
		if f := h.fields[i].name; policy.Respelt(f, name) && !bytes.EqualFold(f, []byte(name)) {
			return true
		}
	}
	return false
}

// All are all fields, for external decisions that are to see them.
func (h *head) All() http.Header {
	fields := make(http.Header, len(h.fields))
	for i := range h.fields {
		fields.Add(string(h.fields[i].name), string(h.fields[i].value))
	}
	return fields
}

// trailers are the names of those that the request announces and that may pass.
func (h *head) trailers() (names string) {
	for i := range h.fields {
		if f := &h.fields[i]; f.kind == trailerField {
			names += ", " + trailing(f.value)
		}
	}
	return names
}

// cutLine takes a line that ends in CR LF and holds no other control byte than
// a tab.
func cutLine(text []byte) (line, rest []byte, ok bool) {
	end := bytes.IndexByte(text, '\n')
	if end < 1 || text[end-1] != '\r' {
		return nil, nil, false
	}
	line = text[:end-1]
	for _, c := range line {
		if c < 0x20 && c != '\t' || c == 0x7f {
			return nil, nil, false
		}
	}
	return line, text[end+1:], true
}

// authorityOf is the authority of a target in absolute form.
func authorityOf(target []byte) (authority []byte, absolute bool) {
	scheme := bytes.Index(target, []byte("://"))
	if scheme < 1 || target[0] == '/' {
		return nil, false
	}
	authority = target[scheme+3:]
	if end := bytes.IndexAny(authority, "/?#"); end >= 0 {
		authority = authority[:end]
	}
	return authority, true
}

// isToken is RFC 9110 5.6.2.
func isToken(word []byte) bool {
	for _, c := range word {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), c) >= 0:
		default:
			return false
		}
	}
	return len(word) > 0
}
