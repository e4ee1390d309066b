package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// errGone says that the caller has left while its answer was waited for.
var errGone = errors.New("the caller has gone")

// errEnd says that the other side closed its connection where it may.
var errEnd = errors.New("the other side has closed the connection")

// errBody says that the caller's body could not be read to its end.
var errBody = errors.New("malformed body")

// exchange serves the request whose head is the next n bytes, and says whether
// the connection can go on.
func (l *line) exchange(n int) (goesOn bool) {
	mark := l.set.tally.begin()
	outcome := asAllowed
	defer func() { l.set.tally.end(mark, outcome) }()
	out := l.set.sheets.Get()
	defer l.set.sheets.Put(out)
	request, refuse := l.lane.ask(l, out[:0])
	method, closes := methodName(l.head.method), l.head.closes
	l.begin()
	l.r += n
	if refuse != nil {
		outcome = l.refuse(refuse)
		return l.skip() && !closes
	}
	request, err := l.frame(request)
	if err != nil {
		outcome = l.refuse(badRequest)
		return false
	}
	s := send{l: l, request: request, method: method}
	var f *far
	if f, err = s.start(); err == nil {
		outcome, err = l.relay(f, &s, closes || l.set.draining.Load(), out) // the request is on its way, its space free
	}
	whole := s.finish(f, err)
	switch {
	case err == nil:
		return whole && !closes && !s.closing
	case s.begun || errors.Is(err, errGone):
		abort(l.conn)
		return false
	case errors.Is(err, errBody) || s.bad.Load():
		outcome = l.refuse(badRequest)
		return false
	}
	outcome = l.refuse(func(rw http.ResponseWriter, r *http.Request) { l.lane.fail(rw, r, err) })
	return whole && !closes
}

// begin sets up the reading of the request's body.
func (l *line) begin() {
	if !l.head.chunked {
		l.body = ofLength(max(l.head.length, 0))
		return
	}
	announced := l.head.trailers()
	l.body = inChunks(false, func(name string) bool { return hasToken([]byte(announced), name) })
}

// frame ends the head of the request to send with the framing of its body and
// adds what is already here of that body.
func (l *line) frame(out []byte) ([]byte, error) {
	switch {
	case l.head.chunked:
		out = append(out, "Transfer-Encoding: chunked\r\n\r\n"...)
	case l.head.length >= 0:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, l.head.length, 10)
		out = append(out, "\r\n\r\n"...)
	default:
		if m := string(l.head.method); m == http.MethodPost || m == http.MethodPut || m == http.MethodPatch {
			out = append(out, "Content-Length: 0\r\n"...) // RFC 9110 8.6: some wait for it
		}
		return append(out, "\r\n"...), nil
	}
	return l.takeBody(out)
}

// takeBody adds what is here of the request's body to out, framed anew.
func (l *line) takeBody(out []byte) ([]byte, error) {
	for !l.body.over() {
		content, n, err := l.body.next(l.in[l.r:l.w])
		if err != nil {
			return out, errBody
		}
		if n == 0 {
			return out, nil
		}
		if l.r += n; l.head.chunked {
			out = frame(out, content)
		} else {
			out = append(out, content...)
		}
	}
	if l.head.chunked {
		out = lastChunk(out, l.body.trailers)
	}
	return out, nil
}

// refuse sends an answer of our own. Behind a body that has not been read to its
// end the connection ends.
func (l *line) refuse(with http.HandlerFunc) outcome {
	rw := newScribe()
	r := &http.Request{
		Method: methodName(l.head.method), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
		URL: &url.URL{}, RemoteAddr: l.conn.RemoteAddr().String(), Body: http.NoBody,
	}
	if !l.stale {
		r.Header.Set("Accept", l.head.value("accept"))
	}
	with(rw, r.WithContext(l.ctx))
	closes := l.head.closes || l.set.draining.Load() || !l.bodyIsHere()
	l.conn.Write(rw.bytes(r.Method, closes)) //nolint:errcheck // the caller has gone
	return rw.outcome()
}

func badRequest(rw http.ResponseWriter, _ *http.Request) {
	http.Error(rw, "kith: malformed request", http.StatusBadRequest)
}

// bodyIsHere says whether what was read holds the request's whole body.
func (l *line) bodyIsHere() bool {
	rest, text := l.body, l.in[l.r:l.w]
	for !rest.over() {
		_, n, err := rest.next(text)
		if err != nil || n == 0 {
			return false
		}
		text = text[n:]
	}
	return true
}

// skip leaves out the body of a request that was refused, if it is here.
func (l *line) skip() bool {
	for !l.body.over() {
		_, n, err := l.body.next(l.in[l.r:l.w])
		if err != nil || n == 0 {
			return false
		}
		l.r += n
	}
	return true
}

// methodName is a method as a string, without a copy for those in use.
func methodName(method []byte) string {
	switch string(method) {
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "HEAD":
		return "HEAD"
	case "PATCH":
		return "PATCH"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	}
	return string(method)
}

// send is a request on its way to the other side.
type send struct {
	l       *line
	request []byte // head, and what was here of the body
	method  string
	begun   bool // something of the answer was sent back
	closing bool // the answer said that the connection ends

	pumping bool          // the rest of the body is sent by a goroutine
	pumped  chan struct{} // closed at its end
	read    atomic.Bool   // the body was read to its end
	sent    atomic.Bool   // and sent to its end
	bad     atomic.Bool   // it was malformed, or broken off
}

// start sends the request. A kept connection may be closed by the other side at
// any time: then the request is sent once more, on a new one, if it is whole and
// means the same twice (RFC 9110 9.2.2).
func (s *send) start() (*far, error) {
	whole := s.l.body.over()
	for fresh := false; ; fresh = true {
		f, err := s.l.lane.connect(s.l.ctx, s.l, fresh)
		if err != nil {
			return nil, err
		}
		s.l.far.Store(f)
		n, err := f.conn.Write(s.request)
		if err == nil && !whole {
			s.pump(f)
			return f, nil
		}
		if err == nil {
			s.read.Store(true)
			s.sent.Store(true)
			if err = s.l.await(f); err == nil {
				return f, nil
			}
		}
		if !f.reused || errors.Is(err, errGone) || s.l.ctx.Err() != nil || n > 0 && !(whole && s.repeats()) {
			return f, err
		}
		s.drop(f)
	}
}

// repeats says whether the request may be sent twice.
func (s *send) repeats() bool {
	switch s.method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return s.l.head.idempotent
}

// pump sends the rest of the body in a goroutine of its own: an application may
// answer while it reads.
func (s *send) pump(f *far) {
	s.pumping, s.pumped = true, make(chan struct{})
	s.l.stale = true
	s.l.wait(0, 0)
	go func() {
		defer close(s.pumped)
		if err := s.rest(f); err != nil {
			s.bad.Store(errors.Is(err, errBody))
			// Otherwise the other side stopped reading, and may have answered why.
			if s.bad.Load() {
				f.conn.Close()
			}
			return
		}
		s.sent.Store(true)
	}()
}

// rest reads the body and sends it, until its end.
func (s *send) rest(f *far) error {
	l := s.l
	if l.body.at == inLength && l.body.left > longBody {
		if err := s.sendLong(f); err != nil {
			return err
		}
	}
	space := l.set.sheets.Get()
	defer l.set.sheets.Put(space)
	for !l.body.over() {
		if err := l.readBody(); err != nil {
			return errBody
		}
		out, err := l.takeBody(space[:0])
		if err != nil {
			return err
		}
		s.read.Store(l.body.over()) // before the other side can answer the whole
		if _, err := f.conn.Write(out); err != nil {
			return err
		}
	}
	return nil
}

// readBody gets more of a body, into a larger space than heads need.
func (l *line) readBody() error {
	if l.r == l.w && len(l.in) < maxLineHead {
		l.in = make([]byte, maxLineHead)
		l.r, l.w = 0, 0
	}
	if l.r == 0 && l.w == len(l.in) && l.w >= maxHead {
		return errBody // a line that has no end
	}
	return l.read()
}

// finish ends the sending and gives the connection back, or closes it. It says
// whether all of the body was read, so that what follows is another request.
func (s *send) finish(f *far, err error) (whole bool) {
	l := s.l
	if s.pumping {
		s.settle(f, err != nil)
	}
	if f != nil {
		if l.far.Store(nil); err == nil && s.sent.Load() && !l.answer.closes && f.spent() {
			f.release()
			l.lane.done(l, f)
		} else {
			s.drop(f)
		}
	}
	return l.body.over()
}

// settle waits for the end of the pump: a moment, if it is at its last piece. A
// caller that is still sending after it was answered gets a second to notice.
func (s *send) settle(f *far, failed bool) {
	if s.read.Load() && !failed {
		last := time.NewTimer(lastPiece)
		defer last.Stop()
		select {
		case <-s.pumped:
			return
		case <-last.C:
		}
	}
	f.conn.Close()
	s.l.conn.SetReadDeadline(time.Now().Add(lingerTime)) //nolint:errcheck // a closed connection shows in the read
	s.l.until = time.Time{}
	<-s.pumped
}

// lastPiece is how long the last write of a body may take after its answer.
const lastPiece = 50 * time.Millisecond

// drop closes a connection that nothing more can be asked on.
func (s *send) drop(f *far) {
	f.conn.Close()
	f.release()
}

// await reads the first bytes of an answer, for as long as the caller is there.
func (l *line) await(f *far) error {
	for {
		err := f.fill()
		var network net.Error
		switch {
		case err == nil:
			return nil
		case errors.As(err, &network) && network.Timeout():
			if l.socket.isGone() {
				return errGone
			}
		case err == io.EOF:
			return errEnd
		default:
			return err
		}
	}
}
