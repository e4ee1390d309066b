package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// errAnswer says that an answer has no one reading.
var errAnswer = errors.New("malformed answer")

// maxAnswerHead bounds the head of an answer, as net/http's transports do here.
const maxAnswerHead = 256 << 10

// answerHead is the head of an HTTP/1 answer, and with it how its body ends. Its
// slices are parts of the bytes it was read from.
type answerHead struct {
	status int
	reason []byte // may be empty
	fields []field

	length  int64  // of the body; -1 if it is not said
	said    []byte // length, as it was said
	chunked bool
	bodied  bool // a body follows, be it empty
	closes  bool // the connection ends with it
	names   bool // Connection names other fields
}

// read takes the head of an answer to a request of that method, up to and with
// its blank line. A program that writes heads otherwise than it should is read
// by net/http, which repairs what it can: what is passed on is written anew.
func (a *answerHead) read(text []byte, method string) error {
	err := a.readStrictly(text, method)
	if err == nil {
		return nil
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), &http.Request{Method: method})
	if err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	var mended bytes.Buffer
	fmt.Fprintf(&mended, "HTTP/1.%d %03d %s\r\n", res.ProtoMinor, res.StatusCode, http.StatusText(res.StatusCode))
	if len(res.TransferEncoding) > 0 {
		mended.WriteString("Transfer-Encoding: chunked\r\n")
	}
	if res.Close {
		mended.WriteString("Connection: close\r\n")
	}
	if err := res.Header.Write(&mended); err != nil {
		return err
	}
	mended.WriteString("\r\n")
	err = a.readStrictly(mended.Bytes(), method)
	a.closes = true // nobody relies on where such an answer ends
	return err
}

func (a *answerHead) readStrictly(text []byte, method string) error {
	*a = answerHead{fields: a.fields[:0], length: -1}
	line, rest, ok := cutLine(text)
	if !ok || len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' {
		return errAnswer
	}
	status, reason, _ := bytes.Cut(line[9:], []byte(" "))
	n, err := strconv.ParseUint(string(status), 10, 16)
	if err != nil || len(status) != 3 || n < 100 {
		return errAnswer
	}
	a.status, a.reason = int(n), reason
	old := line[7] == '0'
	if a.fields, rest, err = readFields(rest, a.fields); err != nil || len(rest) > 0 {
		return errAnswer
	}
	keeps, trails := false, false
	for i := range a.fields {
		f := &a.fields[i]
		if f.kind == connectionField {
			keeps = keeps || hasToken(f.value, "keep-alive")
		}
		trails = trails || f.kind == trailerField && framesByTrailer(f.value)
		if err := a.note(f); err != nil {
			return err
		}
	}
	if a.chunked && (a.length >= 0 || old || trails) {
		return errAnswer
	}
	a.closes = a.closes || old && !keeps
	// RFC 9112 6.3: these have no body, whatever they say.
	a.bodied = method != http.MethodHead && a.status >= 200 && a.status != http.StatusNoContent && a.status != http.StatusNotModified
	if !a.bodied {
		a.chunked = false
	}
	a.closes = a.closes || a.bodied && !a.chunked && a.length < 0
	return nil
}

func (a *answerHead) note(f *field) error {
	switch f.kind {
	case lengthField:
		n, err := strconv.ParseUint(string(f.value), 10, 63)
		if err != nil || a.length >= 0 && !bytes.Equal(a.said, f.value) {
			return errAnswer
		}
		a.length, a.said = int64(n), f.value
	case encodingField:
		if a.chunked || !sameWord(f.value, "chunked") {
			return errAnswer
		}
		a.chunked = true
	case connectionField:
		closes, names := connectionSays(f.value)
		a.closes, a.names = a.closes || closes, a.names || names
	}
	return nil
}

// framesByTrailer says whether a Trailer field announces what frames a message,
// which RFC 9110 6.5.1 forbids.
func framesByTrailer(value []byte) bool {
	return hasToken(value, "Transfer-Encoding") || hasToken(value, "Content-Length") || hasToken(value, "Trailer")
}

// named says whether a Connection field names this one: then it is for this hop.
func (a *answerHead) named(name []byte) bool {
	for i := range a.fields {
		if f := &a.fields[i]; f.kind == connectionField && hasToken(f.value, string(name)) {
			return true
		}
	}
	return false
}

// headEnd is the length of the head that text begins with, up to and with its
// blank line; 0 asks for more. A line may end in LF alone. from is how much of
// text was looked at before.
func headEnd(text []byte, from int) int {
	for at := max(0, from-2); ; {
		next := bytes.IndexByte(text[at:], '\n')
		if next < 0 {
			return 0
		}
		at += next + 1
		switch rest := text[at:]; {
		case len(rest) > 0 && rest[0] == '\n':
			return at + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return at + 2
		}
	}
}
