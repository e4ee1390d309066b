package proxy

import (
	"bytes"
	"strconv"
)

// body follows the body of one message through the bytes of its connection and
// says which of them are content, so that it can be framed anew. The zero body
// is none.
type body struct {
	at       stage
	left     int64 // of a body of known length, or of the chunk
	tolerant bool  // of chunk sizes with blanks behind them, which some applications send
	trailers []byte
	passes   func(name string) bool // says whether a trailer is passed on
	seen     int                    // bytes of trailers so far
}

// stage is where in a body its reader is.
type stage int

const (
	ended      stage = iota
	inLength         // in a body of known length
	untilEnd         // in one that ends with the connection
	beforeSize       // before the size of the first chunk
	inChunk
	behindChunk // before the end of a chunk and the size of the next
	inTrailer
)

func ofLength(n int64) body {
	if n == 0 {
		return body{}
	}
	return body{at: inLength, left: n}
}

func inChunks(tolerant bool, passes func(string) bool) body {
	return body{at: beforeSize, tolerant: tolerant, passes: passes}
}

// over says whether the whole body was followed.
func (b *body) over() bool { return b.at == ended }

// next looks at what was read. content is a part of text to pass on, n how much
// of text has been dealt with. n 0 asks for more.
func (b *body) next(text []byte) (content []byte, n int, err error) {
	if len(text) == 0 {
		return nil, 0, nil
	}
	switch b.at {
	case untilEnd:
		return text, len(text), nil
	case inLength, inChunk:
		content = text[:min(int64(len(text)), b.left)]
		if b.left -= int64(len(content)); b.left == 0 {
			if b.at == inLength {
				b.at = ended
			} else {
				b.at = behindChunk
			}
		}
		return content, len(content), nil
	case beforeSize, behindChunk:
		n, size, err := b.chunk(text)
		switch {
		case err != nil || n == 0:
			return nil, 0, err
		case size == 0:
			b.at = inTrailer
		default:
			b.at, b.left = inChunk, size
		}
		return nil, n, nil
	case inTrailer:
		n, err := b.trailer(text)
		return nil, n, err
	}
	return nil, 0, nil
}

func (b *body) chunk(text []byte) (n int, size int64, err error) {
	if n, size, err = readChunk(text, b.at == beforeSize); err == nil || !b.tolerant {
		return n, size, err
	}
	// Once more without the blanks before the line's end.
	start := 0
	if b.at == behindChunk {
		start = 2
	}
	end := bytes.Index(text[min(start, len(text)):], []byte("\r\n"))
	if end < 0 {
		return 0, 0, err
	}
	end += start
	line := bytes.TrimRight(text[:end], " \t")
	var mended [64]byte
	if len(line) == end || len(line) > len(mended)-2 {
		return 0, 0, err
	}
	if _, size, err = readChunk(append(append(mended[:0], line...), '\r', '\n'), b.at == beforeSize); err != nil {
		return 0, 0, err
	}
	return end + 2, size, nil
}

// trailer takes one line behind the last chunk and keeps it if it may pass.
func (b *body) trailer(text []byte) (n int, err error) {
	n, last, err := readTrailer(text)
	if b.seen += n; err != nil || b.seen > maxHead {
		return 0, errHead
	}
	if last {
		b.at = ended
		return n, nil
	}
	if n > 0 {
		name, _, _ := bytes.Cut(text[:n], []byte(":"))
		if b.passes != nil && b.passes(string(name)) {
			b.trailers = append(b.trailers, text[:n]...)
		}
	}
	return n, nil
}

// frame appends content to out as one chunk.
func frame(out, content []byte) []byte {
	if len(content) == 0 {
		return out // it would be the last one
	}
	out = strconv.AppendInt(out, int64(len(content)), 16)
	out = append(out, '\r', '\n')
	out = append(out, content...)
	return append(out, '\r', '\n')
}

// lastChunk appends the end of a body in chunks.
func lastChunk(out, trailers []byte) []byte {
	out = append(out, "0\r\n"...)
	out = append(out, trailers...)
	return append(out, "\r\n"...)
}
