package proxy

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// maxInterim bounds the interim answers (1xx) to one request.
const maxInterim = 16

// relay passes the answer back: interim ones, then the final one, each as soon
// as it is there. It is put together in space.
func (l *line) relay(f *far, s *send, closes bool, space []byte) (outcome, error) {
	for range maxInterim {
		if err := l.awaitAnswer(f, s.method); err != nil {
			return asError, err
		}
		switch status := l.answer.status; {
		case status == http.StatusSwitchingProtocols:
			return asError, fmt.Errorf("%w: nobody asked for another protocol", errAnswer)
		case status == http.StatusContinue: // nobody asked for that either, but it does no harm
		case status < http.StatusOK:
			if err := l.write(s, append(l.answerFields(space[:0]), "\r\n"...)); err != nil {
				return asError, err
			}
		default:
			s.closing = closes || !s.read.Load()
			return statusOutcome(status, l.decided()), l.passBody(f, s, l.answerHead(space[:0], s.closing))
		}
	}
	return asError, fmt.Errorf("%w: only interim ones", errAnswer)
}

// awaitAnswer reads the head of an answer.
func (l *line) awaitAnswer(f *far, method string) error {
	for seen := 0; ; {
		if n := headEnd(f.in[f.r:f.w], seen); n > 0 {
			f.r += n
			return l.answer.read(f.in[f.r-n:f.r], method)
		}
		if seen = f.buffered(); seen >= maxAnswerHead {
			return fmt.Errorf("%w: its head has more than %d bytes", errAnswer, maxAnswerHead)
		}
		if err := l.await(f); err != nil {
			return err
		}
	}
}

// answerHead appends the final head to out: what the other side says about the
// answer, and how we frame it.
func (l *line) answerHead(out []byte, closes bool) []byte {
	a := &l.answer
	out = l.answerFields(out)
	if !a.dated() { // RFC 9110 6.6.1: who passes on an answer without a date adds one
		out = append(out, "Date: "...)
		out = time.Now().UTC().AppendFormat(out, http.TimeFormat)
		out = append(out, "\r\n"...)
	}
	switch {
	case a.bodied && (a.chunked || a.length < 0):
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	case a.length >= 0 && a.status != http.StatusNoContent:
		out = append(out, "Content-Length: "...)
		out = strconv.AppendInt(out, a.length, 10)
		out = append(out, "\r\n"...)
	}
	if closes {
		out = append(out, "Connection: close\r\n"...)
	}
	return append(out, "\r\n"...)
}

// answerFields appends the first line and the fields that are not for one hop.
func (l *line) answerFields(out []byte) []byte {
	a := &l.answer
	out = append(out, "HTTP/1.1 "...)
	out = strconv.AppendInt(out, int64(a.status), 10)
	out = append(out, ' ')
	out = append(out, a.reason...)
	out = append(out, "\r\n"...)
	for i := range a.fields {
		f := &a.fields[i]
		value := f.value
		switch f.kind {
		case lengthField, encodingField, connectionField, hopField, upgradeField:
			continue
		case trailerField:
			if !a.bodied || !a.chunked {
				continue
			}
		}
		if l.lane.drops(f.kind) || a.names && a.named(f.name) {
			continue
		}
		out = append(out, f.name...)
		out = append(out, ": "...)
		out = append(out, value...)
		out = append(out, "\r\n"...)
	}
	return out
}

// passBody sends out, which holds the head, and behind it the body, framed anew.
func (l *line) passBody(f *far, s *send, out []byte) error {
	a := &l.answer
	var b body
	framed := a.bodied && (a.chunked || a.length < 0)
	switch {
	case !a.bodied:
	case a.chunked:
		b = inChunks(true, l.passesBack)
	case a.length >= 0:
		b = ofLength(a.length)
	default:
		b = body{at: untilEnd}
	}
	for {
		var err error
		if out, err = l.takeAnswer(f, s, &b, framed, out); err != nil {
			return err
		}
		if framed && b.over() {
			out = lastChunk(out, b.trailers)
		}
		if err := l.write(s, out); err != nil || b.over() {
			return err
		}
		if out = out[:0]; f.buffered() >= sheet {
			return fmt.Errorf("%w: a line in its body has no end", errAnswer)
		}
		if b.at == inLength && b.left > longBody {
			if err := l.passLong(f, &b); err != nil || b.over() {
				return err
			}
		}
		switch err := l.await(f); {
		case err == errEnd && b.at == untilEnd:
			b.at = ended
		case err != nil:
			return err
		}
	}
}

// takeAnswer adds what is here of the body to out, and sends it whenever it has
// become large.
func (l *line) takeAnswer(f *far, s *send, b *body, framed bool, out []byte) ([]byte, error) {
	for !b.over() {
		content, n, err := b.next(f.in[f.r:f.w])
		if err != nil {
			return out, fmt.Errorf("%w: %w", errAnswer, err)
		}
		if n == 0 {
			return out, nil
		}
		f.r += n
		if len(out)+len(content)+chunkOverhead > cap(out) {
			if err := l.write(s, out); err != nil {
				return out, err
			}
			out = out[:0]
		}
		switch {
		case framed:
			out = frame(out, content)
		case len(out) == 0 && len(content) >= directly:
			if err := l.write(s, content); err != nil {
				return out, err
			}
		default:
			out = append(out, content...)
		}
	}
	return out, nil
}

const (
	chunkOverhead = 64        // more than a chunk's framing
	directly      = sheet / 2 // from here on a copy costs more than it saves
)

// write sends a part of the answer.
func (l *line) write(s *send, out []byte) error {
	if len(out) == 0 {
		return nil
	}
	s.begun = true
	_, err := l.conn.Write(out)
	return err
}

// passesBack says whether a trailer of an answer is passed on.
func (l *line) passesBack(name string) bool {
	switch k := kindOf([]byte(name)); k {
	case hostField, lengthField, encodingField, connectionField, hopField, teField, trailerField, upgradeField:
		return false
	default:
		return !l.lane.drops(k)
	}
}

// decided says whether the answer is a decision of the other side's proxy.
func (l *line) decided() bool {
	for i := range l.answer.fields {
		if k := l.answer.fields[i].kind; k == decisionField && !l.lane.drops(k) {
			return true
		}
	}
	return false
}

// dated says whether the answer has a date.
func (a *answerHead) dated() bool {
	for i := range a.fields {
		if a.fields[i].kind == dateField {
			return true
		}
	}
	return false
}
