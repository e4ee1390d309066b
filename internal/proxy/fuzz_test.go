package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// headerOf is the fields net/http shows to a handler, of those we read.
func headerOf(fields []field) http.Header {
	head := make(http.Header)
	for _, f := range fields {
		name := textproto.CanonicalMIMEHeaderKey(string(f.name))
		head[name] = append(head[name], string(f.value))
	}
	return head
}

// What we read as a head, net/http reads as the same head, or refuses.
func FuzzReadHead(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", "GET / HTTP/1.0\r\n\r\n",
		"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "\r\n\r\n", "",
		"GET /a?b#c HTTP/1.1\r\nHost: a:1\r\nConnection: close, X\r\nAccept: text/event-stream\r\nUpgrade: h2c\r\nTE: trailers\r\nX: \xff\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X, Host\r\nExpect: 100-continue\r\nContent-Type: application/grpc\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun\u212aed\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var h head
		if h.read(text) != nil {
			return
		}
		if h.chunked && h.length >= 0 {
			t.Errorf("%q: both framings: %+v", text, h)
		}
		if bytes.Count(text, []byte("\n")) != bytes.Count(text, []byte("\r\n")) || headEnd(text, 0) != len(text) {
			t.Errorf("%q: accepted with odd line ends", text)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
		if err != nil {
			return // it refuses more: a target that is none
		}
		if r.Method != string(h.method) || r.RequestURI != string(h.target) || r.ProtoMinor != map[bool]int{true: 0, false: 1}[h.http10] {
			t.Errorf("%q: net/http reads %s %q", text, r.Method, r.RequestURI)
		}
		if authority, absolute := authorityOf(h.target); !absolute && r.URL.Host == "" && r.Host != string(h.host) {
			t.Errorf("%q: net/http reads host %q, and we %q %q", text, r.Host, h.host, authority)
		}
		if length := max(h.length, 0); r.ContentLength != length && !(h.chunked && r.ContentLength == -1) || h.chunked != slices.Contains(r.TransferEncoding, "chunked") {
			t.Errorf("%q: net/http reads length %d, encoding %q, and we %d, %v", text, r.ContentLength, r.TransferEncoding, h.length, h.chunked)
		}
		ours := headerOf(h.fields)
		if _, said := ours["Cache-Control"]; !said && len(ours["Pragma"]) > 0 && ours["Pragma"][0] == "no-cache" {
			delete(r.Header, "Cache-Control") // which net/http adds
		}
		for _, taken := range []string{"Host", "Transfer-Encoding", "Trailer"} { // net/http shows these elsewhere
			delete(ours, taken)
			delete(r.Header, taken)
		}
		sameFields(t, text, r.Header, ours)
	})
}

func sameFields(t *testing.T, text []byte, theirs, ours http.Header) {
	t.Helper()
	for name := range theirs {
		if !slices.Equal(theirs[name], ours[name]) {
			t.Errorf("%q: net/http reads %s: %q, and we %q", text, name, theirs[name], ours[name])
		}
	}
	for name := range ours {
		if _, ok := theirs[name]; !ok {
			t.Errorf("%q: net/http does not read %s: %q", text, name, ours[name])
		}
	}
}

// What we read as an answer, net/http reads with the same framing.
func FuzzReadAnswer(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 204\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 304 X\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 200 OK\nX: a\n b\nTransfer-Encoding: chunked\n\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: X, close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 03\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\u212aed\r\n\r\n", "HTTP/1.0 200 OK\r\nConnection: \u212aeep-alive\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X, content-length\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, toHead bool) {
		method := http.MethodGet
		if toHead {
			method = http.MethodHead
		}
		var a answerHead
		if n := headEnd(text, 0); n == 0 || a.read(text[:n], method) != nil {
			return
		}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(text)), &http.Request{Method: method})
		if err != nil || res.StatusCode != a.status {
			t.Fatalf("%q: net/http reads %v, %v, and we %d", text, res, err, a.status)
		}
		if a.status < 200 {
			return
		}
		switch chunked := slices.Contains(res.TransferEncoding, "chunked"); {
		case !a.bodied:
			if body, _ := io.ReadAll(res.Body); res.ContentLength > 0 && !toHead && a.status != http.StatusNotModified || len(body) > 0 {
				t.Errorf("%q: net/http reads a body of %d", text, res.ContentLength)
			}
		case a.chunked != chunked, !chunked && a.length != res.ContentLength:
			t.Errorf("%q: net/http reads length %d, encoding %q, and we %d, %v", text, res.ContentLength, res.TransferEncoding, a.length, a.chunked)
		}
		if res.Close && !a.closes {
			t.Errorf("%q: the connection ends with it, by net/http", text)
		}
	})
}

// A body in chunks is read alike however it arrives, as net/http reads it, and
// framed anew it is the same body.
func FuzzPassBody(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A;a=b\r\n0123456789\r\n00\r\nX: y\r\nCookie: z\r\n\r\nGET /", "5\nhello\r\n0\r\n\r\n",
		"5 \r\nhello\r\n0 \r\n\r\n", "1\r\na\r\n1\r\nb\r\n0\r\nHost: a\r\n\r\n", "ffffffffffffffff\r\n", "",
	} {
		f.Add([]byte(seed), uint8(1), false)
		f.Add([]byte(seed), uint8(7), true)
	}
	const most = 4 << 10 // net/http refuses longer trailers, and 16 KiB of extensions
	f.Fuzz(func(t *testing.T, text []byte, piece uint8, tolerant bool) {
		if len(text) > most {
			return
		}
		whole, length, ok := passed(text, len(text), tolerant)
		pieces, length2, ok2 := passed(text, int(piece)+1, tolerant)
		if !bytes.Equal(whole, pieces) || length != length2 || ok != ok2 {
			t.Fatalf("%q: %q, %d, %v at once, %q, %d, %v in pieces", text, whole, length, ok, pieces, length2, ok2)
		}
		if !ok {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(text[:length])))
		if err != nil {
			t.Fatalf("%q: net/http reads %v", text, err)
		}
		r := bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(whole)))
		req, err := http.ReadRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := io.ReadAll(req.Body)
		if err != nil || !bytes.Equal(again, theirs) || r.Buffered() != 0 {
			t.Errorf("%q: net/http reads %q; framed anew %q, %v, %d bytes are left", text, theirs, again, err, r.Buffered())
		}
		for name := range req.Trailer {
			if name != "X" {
				t.Errorf("%q: trailer %s passed", text, name)
			}
		}
	})
}

// passed follows a body that arrives in pieces and frames it anew.
func passed(text []byte, piece int, tolerant bool) (out []byte, length int, ok bool) {
	b := inChunks(tolerant, func(name string) bool { return name == "X" })
	for at, have := 0, 0; ; {
		for !b.over() {
			content, n, err := b.next(text[at:have])
			if err != nil {
				return nil, 0, false
			}
			if n == 0 {
				break
			}
			at += n
			out = append(out, content...)
		}
		if b.over() {
			return lastChunk(frame(nil, out), b.trailers), at, true
		}
		if have == len(text) {
			return nil, 0, false
		}
		have = min(have+piece, len(text))
	}
}
