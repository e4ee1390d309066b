package policy

import (
	"bytes"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/fault"
)

// PathOptions says which ambiguous forms a service needs kept. What is kept is
// matched and forwarded in the segments as sent, never decoded.
type PathOptions struct {
	KeepEncodedSlash bool // %2F stays inside its segment
	KeepDoubleSlash  bool // // is an empty segment
}

// maxPath bounds a path, as sent and as forwarded.
const maxPath = 8 << 10

// Bit c of plainLow (c < 64) and bit c-64 of plainHigh are set for the bytes that
// stand for themselves in a path: RFC 3986 pchar without % and ';', and '/'.
const (
	plainLow  = 1<<'!' | 1<<'$' | 1<<'&' | 1<<'\'' | 1<<'(' | 1<<')' | 1<<'*' | 1<<'+' | 1<<',' | 1<<'-' | 1<<'.' | 1<<'/' | 0x3ff<<'0' | 1<<':' | 1<<'='
	plainHigh = 1<<('@'-64) | 0x3ffffff<<('A'-64) | 1<<('_'-64) | 0x3ffffff<<('a'-64) | 1<<('~'-64)
)

func plainByte(c byte) bool {
	switch {
	case c < 64:
		return uint64(plainLow)>>c&1 != 0
	case c < 128:
		return uint64(plainHigh)>>(c-64)&1 != 0
	default:
		return false
	}
}

// unreserved bytes mean the same encoded or not (RFC 3986 2.3).
func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// NormalizePath gives the one form of a request target's path that is decided
// and forwarded. raw is the path as sent, without query. Unreserved characters
// are decoded, other escapes upper-cased, bytes that no path may hold raw are
// escaped, and dot segments resolved. A path with more than one reading is an
// error: the caller answers 400 and reports PathNotCanonical.
//
// The result is its own normal form, so normalising twice changes nothing.
func NormalizePath(raw string, opt PathOptions) (string, error) {
	switch {
	case raw == "" || raw[0] != '/':
		return "", fault.Invalidf("path does not begin with /")
	case len(raw) > maxPath:
		return "", fault.Invalidf("path is longer than %d bytes", maxPath)
	case isPlain(raw):
		return raw, nil
	}
	return normalize(raw, opt)
}

// normalize is for paths that are not plain. It is a function of its own for its
// kilobyte of stack: a server's goroutine starts with little, and growing it
// costs a request more than deciding does.
//
//go:noinline
func normalize(raw string, opt PathOptions) (string, error) {
	var outSpace, bytesSpace [512]byte // so that most paths need no allocation
	out, err := unescape(outSpace[:0], bytesSpace[:0], raw, opt.KeepEncodedSlash)
	if err != nil {
		return "", err
	}
	if out, err = resolveDots(out, opt.KeepDoubleSlash); err != nil {
		return "", err
	}
	if err := checkEscapes(out); err != nil {
		return "", err
	}
	if len(out) > maxPath {
		return "", fault.Invalidf("path is longer than %d bytes once escaped", maxPath)
	}
	if string(out) == raw {
		return raw, nil
	}
	return string(out), nil
}

// isPlain is true for most paths: nothing to decode, resolve or refuse.
func isPlain(path string) bool {
	for i := 0; i < len(path); i++ {
		if !plainByte(path[i]) {
			return false
		}
		if path[i] == '/' && i+1 < len(path) && (path[i+1] == '/' || path[i+1] == '.') {
			return false
		}
	}
	return true
}

// unescape appends raw to out with every byte in its one spelling, and refuses
// what two programs could read differently. decoded is scratch space.
func unescape(out, decoded []byte, raw string, keepSlash bool) ([]byte, error) {
	for i := 0; i < len(raw); i++ {
		c, escaped := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return nil, fault.Invalidf("path has a %% that is no escape")
			}
			c, escaped = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		decoded = append(decoded, c)
		switch {
		case c < 0x20 || c == 0x7f:
			return nil, fault.Invalidf("path has control byte %#02x", c)
		case c == '\\':
			return nil, fault.Invalidf("path has a backslash")
		case c == ';':
			return nil, fault.Invalidf("path has a ; parameter")
		case !escaped && (c == '#' || c == '?' || c == ' '):
			return nil, fault.Invalidf("path has a raw %q", c)
		case escaped && c == '/' && !keepSlash:
			return nil, fault.Invalidf("path has an encoded slash")
		case plainByte(c) && !escaped, unreserved(c):
			out = append(out, c)
		default:
			const digits = "0123456789ABCDEF"
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
	}
	if !utf8.Valid(decoded) { // overlong forms of / and . among them
		return nil, fault.Invalidf("path is not UTF-8")
	}
	return out, nil
}

// resolveDots removes . and .. segments in place (RFC 3986 5.2.4), except that
// climbing above the root is refused.
func resolveDots(path []byte, keepDouble bool) ([]byte, error) {
	out := path[:0]
	for i := 0; i < len(path); {
		end := bytes.IndexByte(path[i+1:], '/')
		last := end < 0
		if end += i + 1; last {
			end = len(path)
		}
		segment := path[i+1 : end]
		switch {
		case string(segment) == ".", string(segment) == "..":
			if len(segment) == 2 {
				if len(out) == 0 {
					return nil, fault.Invalidf("path climbs above the root")
				}
				out = out[:bytes.LastIndexByte(out, '/')]
			}
			if last {
				out = append(out, '/')
			}
		case len(segment) == 0 && !last && !keepDouble:
			return nil, fault.Invalidf("path has an empty segment")
		default:
			out = append(out, path[i:end]...)
		}
		i = end
	}
	return out, nil
}

// checkEscapes refuses what a second decoding would turn into another path: an
// escaped escape of a character that structures paths, at any depth, and a dot
// segment beside an encoded slash. It reads the result, where %25%32%65 has
// already become %252e.
func checkEscapes(path []byte) error {
	for i := 0; i+2 < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		if path[i+1] == '2' && path[i+2] == 'F' && (dotBefore(path[:i]) || dotAfter(path[i+3:])) {
			return fault.Invalidf("path has a dot segment beside an encoded slash")
		}
		j := i + 1
		for j+1 < len(path) && path[j] == '2' && path[j+1] == '5' {
			j += 2
		}
		if j == i+1 || j+1 >= len(path) || !isHex(path[j]) || !isHex(path[j+1]) {
			continue
		}
		switch c := unhex(path[j])<<4 | unhex(path[j+1]); {
		case c == '.', c == '/', c == '\\', c == ';', c < 0x20, c == 0x7f:
			return fault.Invalidf("path is encoded twice")
		}
	}
	return nil
}

// dotBefore is true if path ends in a dot segment, %2F counted as a slash.
func dotBefore(path []byte) bool {
	path, one := bytes.CutSuffix(path, []byte("."))
	path, _ = bytes.CutSuffix(path, []byte("."))
	return one && (bytes.HasSuffix(path, []byte("/")) || bytes.HasSuffix(path, []byte("%2F")))
}

// dotAfter is true if path begins with a dot segment, %2F counted as a slash.
func dotAfter(path []byte) bool {
	path, one := bytes.CutPrefix(path, []byte("."))
	path, _ = bytes.CutPrefix(path, []byte("."))
	return one && (len(path) == 0 || path[0] == '/' || bytes.HasPrefix(path, []byte("%2F")))
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	default:
		return c - '0'
	}
}

// foldable escapes stand for characters that may also stand raw in a path. A back
// end reads both alike, so both match alike, though each is forwarded as sent.
func foldable(c byte) bool { return plainByte(c) && c != '/' }

// fold appends a normal segment to out in the spelling that is matched: with its
// foldable escapes decoded.
func fold(out []byte, segment string) []byte {
	for i := 0; i < len(segment); i++ {
		if segment[i] == '%' && i+2 < len(segment) {
			if c := unhex(segment[i+1])<<4 | unhex(segment[i+2]); foldable(c) {
				out = append(out, c)
				i += 2
				continue
			}
		}
		out = append(out, segment[i])
	}
	return out
}
