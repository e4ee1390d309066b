package proxy

import (
	"bytes"
	"io"
	"net/http/httputil"
	"slices"
	"testing"
)

// walk reads a chunked body to its end: what it holds, and how long it is as
// sent; -1 where it is refused or not complete.
func walk(text []byte) (body []byte, length int) {
	at, first := 0, true
	for {
		n, size, err := readChunk(text[at:], first)
		if err != nil || n == 0 {
			return nil, -1
		}
		at, first = at+n, false
		if size == 0 {
			break
		}
		if int64(len(text)-at) < size {
			return nil, -1
		}
		body = append(body, text[at:at+int(size)]...)
		at += int(size)
	}
	for {
		n, last, err := readTrailer(text[at:])
		if err != nil || n == 0 {
			return nil, -1
		}
		if at += n; last {
			return body, at
		}
	}
}

// Whatever we take for a body, net/http takes for the same.
func FuzzChunks(f *testing.F) {
	for _, seed := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A;a=b\r\n0123456789\r\n00\r\nX: y\r\n\r\nGET /", "5\nhello\r\n0\r\n\r\n", "-1\r\n\r\n",
		"ffffffffffffffff\r\n", "8000000000000000\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n", "0\r\nHost: a\r\n\r\n", "\r\n", "",
	} {
		f.Add([]byte(seed))
	}
	const most = 16 << 10 // net/http refuses as much in extensions alone
	f.Fuzz(func(t *testing.T, text []byte) {
		body, length := walk(text)
		if length < 0 || len(text) > most {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(text[:length])))
		if err != nil || !bytes.Equal(theirs, body) {
			t.Errorf("%q: net/http reads %q, %v, and we %q", text, theirs, err, body)
		}
	})
}

// Attack 54: what follows a body in chunks on the same connection is a head, and
// is read as strictly as the first.
func TestNothingHidesBehindChunks(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	const chunks = "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	for name, tc := range map[string]struct {
		second string
		want   []int
	}{
		"two framings": {"POST /b HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", []int{200, 400}},
		"bare LF":      {"GET /b HTTP/1.1\nHost: orders\n\n", []int{200, 400}},
		"folded":       {"GET /b HTTP/1.1\r\nHost: orders\r\nX: y\r\n z\r\n\r\n", []int{200, 400}},
		"lawful":       {"GET /b HTTP/1.1\r\nHost: orders\r\n\r\n", []int{200, 200}},
		"chunks again": {chunks, []int{200, 200}},
	} {
		p := dialPeer(t, h, "web", addr, "http/1.1")
		p.send(chunks + tc.second)
		var got []int
		for range 2 {
			got = append(got, p.read().status)
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
		if asked := len(app.take()); tc.want[1] == 400 && asked != 1 {
			t.Errorf("%s: the application was asked %d times", name, asked)
		}
	}
}

// A chunk that needs repair ends the request and the connection.
func TestBrokenChunksEndTheConnection(t *testing.T) {
	t.Parallel()
	h, _, addr := attacked(t)
	for _, body := range []string{"5\nhello\r\n0\r\n\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "0\r\nContent-Length: 5\r\n\r\n"} {
		p := dialPeer(t, h, "web", addr, "http/1.1")
		p.send("POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n" + body + "GET /b HTTP/1.1\r\nHost: orders\r\n\r\n")
		if got := p.read(); got.status == 200 {
			t.Errorf("%q: got %d", body, got.status)
		}
		if got := p.read(); got.status == 200 {
			t.Errorf("%q: what follows was answered with %d", body, got.status)
		}
	}
}
