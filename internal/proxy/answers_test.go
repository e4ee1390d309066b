package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// scripted is an application that reads requests and answers each with the next
// text, whatever that is. An answer that begins with ! is the last of its
// connection.
func scripted(t *testing.T, asked chan<- *http.Request, answers ...string) string {
	t.Helper()
	var next atomic.Int64
	return listenTCP(t, func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			if asked != nil {
				asked <- req
			}
			text := answers[min(int(next.Add(1)), len(answers))-1]
			io.WriteString(conn, strings.TrimPrefix(text, "!"))
			if strings.HasPrefix(text, "!") {
				return
			}
		}
	})
}

func scriptedHouse(t *testing.T, asked chan<- *http.Request, answers ...string) (h *house, addr string) {
	t.Helper()
	h = newHouse(t)
	_, addr = h.expose("orders", "http", scripted(t, asked, answers...))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST,HEAD /{**}"))
	return h, addr
}

// What an application answers arrives: framed anew, by hop-by-hop fields less.
func TestAnswersArrive(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789abcdef", 8<<10)
	for name, tc := range map[string]struct {
		answer, method string
		status         int
		body           string
		trailer        string
	}{
		"length":             {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello"},
		"long":               {answer: fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(long), long), status: 200, body: long},
		"no reason":          {answer: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
		"own reason":         {answer: "HTTP/1.1 299 Quite Fine\r\nContent-Length: 2\r\n\r\nhi", status: 299, body: "hi"},
		"chunks":             {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n", status: 200, body: "hello!"},
		"long chunks":        {answer: fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(long), long), status: 200, body: long},
		"blanks behind size": {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5  \r\nhello\r\n0\t\r\n\r\n", status: 200, body: "hello"},
		"trailers":           {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 7\r\nKith-Decision: x\r\n\r\n", status: 200, body: "x", trailer: "7"},
		"until the end":      {answer: "!HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it", status: 200, body: "all of it"},
		"HTTP/1.0":           {answer: "!HTTP/1.0 200 OK\r\n\r\nold", status: 200, body: "old"},
		"bare LF":            {answer: "HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", status: 200, body: "hi"},
		"folded":             {answer: "HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
		"two equal lengths":  {answer: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
		"both framings":      {answer: "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", status: 200, body: "hi"},
		"long head":          {answer: "HTTP/1.1 200 OK\r\nX-Long: " + long + "\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
		"no content":         {answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204},
		"not modified":       {answer: "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\nETag: x\r\n\r\n", status: 304},
		"HEAD":               {method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", status: 200},
		"HEAD in chunks":     {method: "HEAD", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: 200},
		"continue unasked":   {answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
		"a decision":         {answer: "HTTP/1.1 403 Forbidden\r\nKith-Decision: forged\r\nContent-Length: 2\r\n\r\nno", status: 403, body: "no"},
		"hop by hop":         {answer: "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nhi", status: 200, body: "hi"},
	} {
		t.Run(name, func(t *testing.T) {
			h, addr := scriptedHouse(t, nil, tc.answer)
			method := tc.method
			if method == "" {
				method = http.MethodGet
			}
			p := dialPeer(t, h, "web", addr, "http/1.1")
			for range 3 { // the caller's connection goes on whatever becomes of the application's
				p.send(method + " /a HTTP/1.1\r\nHost: orders\r\n\r\n")
				res, err := http.ReadResponse(p.r, &http.Request{Method: method})
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != tc.status || string(body) != tc.body {
					t.Fatalf("got %d %.60q, %v, want %d %.60q", res.StatusCode, body, err, tc.status, tc.body)
				}
				if got := res.Trailer.Get("X-Sum"); got != tc.trailer || res.Header.Get("Date") == "" {
					t.Errorf("got trailer %q, want %q; head %v", got, tc.trailer, res.Header)
				}
				for _, gone := range []string{"Kith-Decision", "X-Hop", "Keep-Alive", "Connection"} {
					if res.Header.Get(gone) != "" || res.Trailer.Get(gone) != "" {
						t.Errorf("the caller gets %s: %q", gone, res.Header.Get(gone))
					}
				}
			}
		})
	}
}

// An answer that was broken off, or has no one reading, is never taken for whole.
func TestBrokenAnswersAreBrokenOff(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"short":             "!HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
		"no last chunk":     "!HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"half a chunk":      "!HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
		"no size":           "!HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n0\r\n\r\n",
		"half a head":       "!HTTP/1.1 200 OK\r\nContent-Le",
		"two lengths":       "!HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
		"one length twice":  "!HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\nhi",
		"Kelvin chunks":     "!HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\u212aed\r\n\r\n0\r\n\r\n",
		"framing trailer":   "!HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X, content-length\r\n\r\n0\r\n\r\n",
		"another encoding":  "!HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"no status":         "!HTTP/1.1 OK\r\n\r\n",
		"no HTTP":           "!220 ready\r\n\r\n",
		"nothing":           "!",
		"another protocol":  "!HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"NUL in a name":     "!HTTP/1.1 200 OK\r\nX\x00: a\r\nContent-Length: 0\r\n\r\n",
		"endless interims":  "!" + strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100),
		"head without end":  "!HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 300<<10),
		"endless size line": "!HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 100<<10),
	} {
		t.Run(name, func(t *testing.T) {
			h, addr := scriptedHouse(t, nil, answer)
			p := dialPeer(t, h, "web", addr, "http/1.1")
			p.send("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
			for {
				res, err := http.ReadResponse(p.r, nil)
				if err != nil {
					return
				}
				if res.StatusCode < 200 {
					continue
				}
				if _, err = io.ReadAll(res.Body); err == nil && res.StatusCode != http.StatusBadGateway {
					t.Errorf("got %d as if it were whole", res.StatusCode)
				}
				return
			}
		})
	}
}

// Interim answers pass while the caller waits.
func TestInterimAnswers(t *testing.T) {
	t.Parallel()
	h, addr := scriptedHouse(t, nil, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	p := dialPeer(t, h, "web", addr, "http/1.1")
	p.send("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
	first, second := p.read(), p.read()
	if first.status != 103 || first.head.Get("Link") != "</a.css>" || second.status != 200 || second.body != "hi" {
		t.Errorf("got %+v, then %+v", first, second)
	}
}

// Invariant 7: what means the same twice is asked again on a new connection when
// the application has closed the kept one; what does not is not.
func TestRetries(t *testing.T) {
	t.Parallel()
	const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 502} {
		asked := make(chan *http.Request, 10)
		h, addr := scriptedHouse(t, asked, fine, "!", strings.TrimSuffix(fine, map[bool]string{true: "hi"}[method == "HEAD"]))
		p := dialPeer(t, h, "web", addr, "http/1.1")
		if got := p.ask("GET /1 HTTP/1.1\r\nHost: orders\r\n\r\n"); got.status != 200 {
			t.Fatalf("got %d", got.status)
		}
		p.send(method + " /2 HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n")
		res, err := http.ReadResponse(p.r, &http.Request{Method: method})
		if err != nil || res.StatusCode != want {
			t.Errorf("%s: got %v, %v, want %d", method, res, err, want)
		}
		close(asked)
		var seen []string
		for r := range asked {
			seen = append(seen, r.RequestURI)
		}
		wanted := []string{"/1", "/2", "/2"}
		if want != 200 {
			wanted = wanted[:2]
		}
		if diff := cmp.Diff(wanted, seen); diff != "" {
			t.Errorf("%s: the application was asked: -want +got\n%s", method, diff)
		}
	}
}

// Attack 54: what an application says unasked is not the answer to what comes next.
func TestUnaskedAnswersAreLeft(t *testing.T) {
	t.Parallel()
	const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
	asked := make(chan *http.Request, 10)
	h, addr := scriptedHouse(t, asked, fine+"hi"+fine+"no", fine+"ho")
	p := dialPeer(t, h, "web", addr, "http/1.1")
	for _, want := range []string{"hi", "ho", "ho"} {
		if got := p.ask("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n"); got.body != want {
			t.Errorf("got %d %q, want %q", got.status, got.body, want)
		}
	}
}

// A caller that leaves takes its request along: the application's connection ends.
func TestCallerThatLeaves(t *testing.T) {
	t.Parallel()
	begun, gone := make(chan struct{}), make(chan struct{})
	h := newHouse(t)
	_, addr := h.expose("orders", "http", listenTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		close(begun)
		io.Copy(io.Discard, conn)
		close(gone)
	}))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	p := dialPeer(t, h, "web", addr, "http/1.1")
	p.send("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n")
	<-begun
	p.conn.Close()
	select {
	case <-gone:
	case <-time.After(proxytest.Patience):
		t.Error("the application is still at it")
	}
}

// A slow answer is waited for as long as the caller is there.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, func(rw http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(3 * answerPatience)
		defer timer.Stop()
		select {
		case <-timer.C:
			io.WriteString(rw, "done")
		case <-r.Context().Done():
		}
	}))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	if got := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a HTTP/1.1\r\nHost: orders\r\n\r\n"); got.body != "done" {
		t.Errorf("got %d %q", got.status, got.body)
	}
}
