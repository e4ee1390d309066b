package proxy

import (
	"bytes"
	"strconv"
)

// maxChunkLine bounds the line before a chunk, with its extensions.
const maxChunkLine = 2 << 10

// readChunk reads the line that says how long the next chunk is, and before it,
// unless it is the first, the end of the one before. It is stricter than
// RFC 9112 7.1, which lets recipients repair: CR LF everywhere, nothing but
// hexadecimal digits before the extensions. n 0 without an error asks for more.
func readChunk(text []byte, first bool) (n int, size int64, err error) {
	rest := text
	if !first {
		if len(rest) < 2 {
			return 0, 0, nil
		}
		if rest[0] != '\r' || rest[1] != '\n' {
			return 0, 0, errHead
		}
		rest = rest[2:]
	}
	if bytes.IndexByte(rest, '\n') < 0 {
		if len(rest) > maxChunkLine {
			return 0, 0, errHead
		}
		return 0, 0, nil
	}
	line, rest, ok := cutLine(rest)
	if !ok || len(line) > maxChunkLine {
		return 0, 0, errHead
	}
	digits, _, _ := bytes.Cut(line, []byte(";"))
	for _, c := range digits {
		if ('0' > c || c > '9') && ('a' > c || c > 'f') && ('A' > c || c > 'F') {
			return 0, 0, errHead
		}
	}
	if len(digits) > 16 {
		return 0, 0, errHead
	}
	if size, err = strconv.ParseInt(string(digits), 16, 64); err != nil {
		return 0, 0, errHead
	}
	return len(text) - len(rest), size, nil
}

// readTrailer reads one line behind the last chunk; last is the empty one. n 0
// without an error asks for more.
func readTrailer(text []byte) (n int, last bool, err error) {
	if bytes.IndexByte(text, '\n') < 0 {
		if len(text) > maxHead {
			return 0, false, errHead
		}
		return 0, false, nil
	}
	line, rest, ok := cutLine(text)
	if !ok {
		return 0, false, errHead
	}
	if len(line) == 0 {
		return len(text) - len(rest), true, nil
	}
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok || !isToken(name) || reservedTrailer(name) {
		return 0, false, errHead
	}
	return len(text) - len(rest), false, nil
}

// reservedTrailer: RFC 9110 6.5.1, a trailer does not frame or route.
func reservedTrailer(name []byte) bool {
	for _, field := range [...]string{"Transfer-Encoding", "Content-Length", "Host"} {
		if bytes.EqualFold(name, []byte(field)) {
			return true
		}
	}
	return false
}
