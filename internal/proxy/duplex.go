package proxy

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	lingerTime  = time.Second // for a sender to notice that it was answered
	lingerBytes = 16 << 20
)

// duplex serves an HTTP/1 request whose answer may begin while it is still being
// read. net/http would end the request's body with the first byte of the
// answer, and applications that answer as they read would get half of it.
//
// Where an answer begins early, the connection ends with it. A forwarding
// transport may still be inside a Read of the body when the handler returns;
// net/http breaks that Read off, and could then take the rest of a chunked body
// for the next request.
func duplex(rw http.ResponseWriter, r *http.Request, next http.Handler) {
	if r.ProtoMajor != 1 || r.Body == http.NoBody {
		next.ServeHTTP(rw, r)
		return
	}
	control := http.NewResponseController(rw)
	if control.EnableFullDuplex() != nil {
		next.ServeHTTP(rw, r)
		return
	}
	body := &watchedBody{ReadCloser: r.Body}
	out := r.WithContext(r.Context()) // net/http looks at its own request's Body
	out.Body = body
	early := &earlyAnswer{ResponseWriter: rw, body: body}
	next.ServeHTTP(early, out)
	if !early.is || body.ended.Load() || early.hijacked || !body.begun.Load() {
		return
	}
	// Closing with bytes unread would be a reset, and could take the answer back
	// from a caller that is still sending.
	control.Flush()                                     //nolint:errcheck // the caller has gone
	control.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // likewise
	io.CopyN(io.Discard, r.Body, lingerBytes)           //nolint:errcheck // likewise
}

// watchedBody knows whether it was read to its end.
type watchedBody struct {
	io.ReadCloser

	begun, ended atomic.Bool
}

// Read reads the body.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.begun.Store(true)
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// earlyAnswer ends the connection with an answer that comes before the end of
// the request.
type earlyAnswer struct {
	http.ResponseWriter

	body     *watchedBody
	is       bool
	hijacked bool
}

// WriteHeader sends the head.
func (e *earlyAnswer) WriteHeader(code int) {
	switch {
	case code == http.StatusSwitchingProtocols:
		e.hijacked = true
	case code >= http.StatusOK && !e.body.ended.Load():
		e.is = true
		e.Header().Set("Connection", "close")
	}
	e.ResponseWriter.WriteHeader(code)
}

// Unwrap lets a ResponseController find the rest.
func (e *earlyAnswer) Unwrap() http.ResponseWriter { return e.ResponseWriter }
