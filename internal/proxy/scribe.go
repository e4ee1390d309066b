package proxy

import (
	"bytes"
	"net/http"
	"strconv"

	"github.com/kith-id/kith"
)

// scribe is an http.ResponseWriter for short answers of our own.
type scribe struct {
	head   http.Header
	status int
	text   bytes.Buffer
}

func newScribe() *scribe { return &scribe{head: make(http.Header)} }

// Header is the head to be written.
func (s *scribe) Header() http.Header { return s.head }

// WriteHeader sets the status.
func (s *scribe) WriteHeader(code int) {
	if s.status == 0 {
		s.status = code
	}
}

// Write adds to the body.
func (s *scribe) Write(p []byte) (int, error) {
	s.WriteHeader(http.StatusOK)
	return s.text.Write(p)
}

// bytes is the answer as HTTP/1.1.
func (s *scribe) bytes(method string, closes bool) []byte {
	s.WriteHeader(http.StatusOK)
	s.head.Set("Content-Length", strconv.Itoa(s.text.Len()))
	if closes {
		s.head.Set("Connection", "close")
	}
	var out bytes.Buffer
	out.WriteString("HTTP/1.1 " + strconv.Itoa(s.status) + " " + http.StatusText(s.status) + "\r\n")
	s.head.Write(&out) //nolint:errcheck // a buffer takes everything
	out.WriteString("\r\n")
	if method != http.MethodHead {
		out.Write(s.text.Bytes())
	}
	return out.Bytes()
}

func (s *scribe) outcome() outcome {
	return statusOutcome(s.status, s.head.Get(kith.DecisionHeader) != "")
}
