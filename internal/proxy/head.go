package proxy

import (
	"bytes"
	"errors"
	"strconv"
)

// errHead says that two programs could read a request head as two requests. The
// caller learns no more than 400.
var errHead = errors.New("ambiguous request head")

// maxHead is how much of a request head is looked at; net/http refuses a longer
// one with 431.
const maxHead = 64 << 10

// headFacts is what the head of an HTTP/1 request says about what follows it.
type headFacts struct {
	length  int64 // of the body, when it is known
	chunked bool
}

// readHead checks the head of an HTTP/1 request, up to and with its blank line,
// more strictly than net/http, which repairs what it can: here a request that
// needs repair is refused, because the next program might repair it otherwise.
// RFC 9112: line ends are CR LF (2.2), no folding (5.2), no space around the
// name (5.1), one Host (3.2), not both Content-Length and Transfer-Encoding and
// neither twice (6.3), and an absolute target agrees with Host (3.2.2).
func readHead(head []byte) (headFacts, error) {
	line, rest, ok := cutLine(head)
	if !ok {
		return headFacts{}, errHead
	}
	method, after, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(after, []byte(" "))
	if !ok1 || !ok2 || !isToken(method) || len(target) == 0 ||
		string(version) != "HTTP/1.1" && string(version) != "HTTP/1.0" {
		return headFacts{}, errHead
	}
	fields := fieldFacts{}
	for {
		if line, rest, ok = cutLine(rest); !ok {
			return headFacts{}, errHead
		}
		if len(line) == 0 {
			break
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || !isToken(name) {
			return headFacts{}, errHead
		}
		if err := fields.add(name, bytes.Trim(value, " \t")); err != nil {
			return headFacts{}, err
		}
	}
	switch {
	case len(rest) > 0,
		fields.chunked && fields.hasLength,
		fields.chunked && string(version) == "HTTP/1.0",
		!fields.hasHost && string(version) == "HTTP/1.1":
		return headFacts{}, errHead
	}
	if authority, absolute := authorityOf(target); absolute && !bytes.EqualFold(authority, fields.host) {
		return headFacts{}, errHead
	}
	return headFacts{length: fields.length, chunked: fields.chunked}, nil
}

type fieldFacts struct {
	host                        []byte
	length                      int64
	hasHost, hasLength, chunked bool
}

// add takes one field. It refuses a second one of those that frame a message.
func (f *fieldFacts) add(name, value []byte) error {
	switch len(name) {
	case len("Host"):
		if bytes.EqualFold(name, []byte("Host")) {
			if f.hasHost {
				return errHead
			}
			f.hasHost, f.host = true, value
		}
	case len("Content-Length"):
		if bytes.EqualFold(name, []byte("Content-Length")) {
			n, err := strconv.ParseUint(string(value), 10, 63)
			if f.hasLength || err != nil || value[0] == '+' {
				return errHead
			}
			f.hasLength, f.length = true, int64(n)
		}
	case len("Transfer-Encoding"):
		if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
			if f.chunked || !bytes.EqualFold(value, []byte("chunked")) {
				return errHead
			}
			f.chunked = true
		}
	}
	return nil
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
