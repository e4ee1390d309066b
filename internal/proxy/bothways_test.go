package proxy

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// mirror tells what arrived, in its answer and to the test.
type mirror struct {
	mu   sync.Mutex
	seen []string
}

func (m *mirror) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	head := make([]string, 0, len(r.Header))
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		head = append(head, fmt.Sprintf("%s=%q", name, r.Header[name]))
		if name == xfcc { // each connection has a leaf of its own
			before, after, _ := strings.Cut(head[len(head)-1], ";Hash=")
			head[len(head)-1] = before + after[64:]
		}
	}
	text := fmt.Sprintf("%s %s host=%s length=%d encoding=%q body=%q err=%v head=%v trailer=%v",
		r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, body, err, head, r.Trailer)
	m.mu.Lock()
	m.seen = append(m.seen, text)
	m.mu.Unlock()
	rw.Header().Set("Content-Type", "text/plain")
	io.WriteString(rw, text)
}

func (m *mirror) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	taken := append([]string{}, m.seen...)
	m.seen = nil
	return taken
}

// aside is a lawful request of a kind that is left to net/http, and with it all
// that follow on its connection.
const aside = "GET /aside HTTP/1.1\r\nHost: orders\r\nConnection: X-Nothing\r\n\r\n"

// conversation sends bytes and reads so many answers, or to the end.
func conversation(t *testing.T, conn net.Conn, raw string, most int) (got []string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(proxytest.Patience))
	go io.WriteString(conn, raw)
	r := bufio.NewReader(conn)
	heads := strings.HasPrefix(strings.TrimPrefix(raw, aside), http.MethodHead)
	for i := 0; len(got) < most; i++ {
		method := http.MethodGet
		if heads && (i > 0 || !strings.HasPrefix(raw, aside)) {
			method = http.MethodHead
		}
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return append(got, "end")
		}
		body, _ := io.ReadAll(res.Body)
		if res.Header.Get("Kith-Decision") != "" {
			body = nil // it has an id that no other has
		}
		one := fmt.Sprintf("%d close=%v %q", res.StatusCode, res.Close, body)
		if len(got) > 0 && res.StatusCode == http.StatusContinue && got[len(got)-1] == one {
			continue // net/http says it twice when the application takes a second to say it
		}
		got = append(got, one)
	}
	return got
}

// Invariant 3, attack 54: whether we serve a request ourselves or net/http does,
// the application sees the same and the caller gets the same.
func TestBothWaysAgree(t *testing.T) {
	t.Parallel()
	h, app := newHouse(t), &mirror{}
	_, addr := h.expose("orders", "http", serve(t, app.ServeHTTP))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST,PUT,HEAD,OPTIONS /{**}"))
	for name, tc := range lawful() {
		t.Run(name, func(t *testing.T) {
			ours := conversation(t, dialPeer(t, h, "web", addr, "http/1.1").conn, tc.raw, tc.answers)
			weSent := app.take()
			theirs := conversation(t, dialPeer(t, h, "web", addr, "http/1.1").conn, aside+tc.raw, tc.answers+1)[1:]
			theySent := app.take()
			if len(theySent) == 0 || !strings.HasPrefix(theySent[0], "GET /aside ") {
				t.Fatalf("the application saw %q", theySent)
			}
			if diff := cmp.Diff(theySent[1:], weSent); diff != "" {
				t.Errorf("the application sees: -net/http +ours\n%s", diff)
			}
			if diff := cmp.Diff(theirs, ours); diff != "" {
				t.Errorf("the caller gets: -net/http +ours\n%s", diff)
			}
		})
	}
}

type conversationCase struct {
	raw     string
	answers int
}

func lawful() map[string]conversationCase {
	const get, post = "GET /a?b=c HTTP/1.1\r\nHost: orders\r\n", "POST /a HTTP/1.1\r\nHost: orders\r\n"
	return map[string]conversationCase{
		"plain":                  {get + "\r\n", 1},
		"two":                    {get + "\r\n" + get + "\r\n", 2},
		"empty line first":       {"\r\n" + get + "\r\n", 1},
		"fields":                 {get + "Accept: */*\r\nX-One:  two  \r\nx-one: three\r\nX-Empty:\r\nUser-Agent: me\r\n\r\n", 1},
		"bytes above ASCII":      {get + "X-Name: caf\xc3\xa9 \xff\r\n\r\n", 1},
		"hop by hop":             {get + "Keep-Alive: 1\r\nProxy-Authorization: x\r\nProxy-Connection: close\r\nTE: trailers, gzip\r\n\r\n", 1},
		"keep-alive":             {get + "Connection: keep-alive\r\n\r\n", 1},
		"close":                  {get + "Connection: close\r\n\r\n" + get + "\r\n", 2},
		"named":                  {get + "Connection: X-One\r\nX-One: two\r\n\r\n", 1},
		"body":                   {post + "Content-Length: 5\r\n\r\nhello" + get + "\r\n", 2},
		"empty body":             {post + "Content-Length: 0\r\n\r\n" + get + "\r\n", 2},
		"no length":              {post + "\r\n" + get + "\r\n", 2},
		"GET with a body":        {get + "Content-Length: 5\r\n\r\nhello" + get + "\r\n", 2},
		"leading zeros":          {post + "Content-Length: 005\r\n\r\nhello" + get + "\r\n", 2},
		"chunks":                 {post + "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n" + get + "\r\n", 2},
		"no chunks":              {post + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get + "\r\n", 2},
		"trailers":               {post + "Transfer-Encoding: chunked\r\nTrailer: X-Sum, X-Spiffe-Id\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-Spiffe-Id: admin\r\nCookie: a=b\r\n\r\n" + get + "\r\n", 2},
		"body in pieces":         {post + "Content-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000) + get + "\r\n", 2},
		"chunks in pieces":       {post + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("2710\r\n"+strings.Repeat("y", 10000)+"\r\n", 9) + "0\r\n\r\n" + get + "\r\n", 2},
		"HEAD":                   {"HEAD /a HTTP/1.1\r\nHost: orders\r\n\r\nHEAD /b HTTP/1.1\r\nHost: orders\r\n\r\n", 2},
		"OPTIONS":                {"OPTIONS /a HTTP/1.1\r\nHost: orders\r\n\r\n", 1},
		"path to be mended":      {"GET /a/./b/../c%41?q=/../%2f HTTP/1.1\r\nHost: orders\r\n\r\n", 1},
		"empty query":            {"GET /? HTTP/1.1\r\nHost: orders\r\n\r\n", 1},
		"odd query":              {"GET /a?x=\"<>|`{}^&y=;&%zz HTTP/1.1\r\nHost: orders\r\n\r\n", 1},
		"host with a port":       {"GET /a HTTP/1.1\r\nHost: orders:8443\r\n\r\n", 1},
		"another host":           {"GET /a HTTP/1.1\r\nHost: Example.COM\r\n\r\n", 1},
		"empty host":             {"GET /a HTTP/1.1\r\nHost:\r\n\r\n", 1},
		"denied":                 {"DELETE /a HTTP/1.1\r\nHost: orders\r\n\r\n" + get + "\r\n", 2},
		"denied with a body":     {"DELETE /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\n\r\nhello" + get + "\r\n", 2},
		"denied with chunks":     {"DELETE /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + get + "\r\n", 2},
		"malformed path":         {"GET /a//b HTTP/1.1\r\nHost: orders\r\n\r\n" + get + "\r\n", 2},
		"identity":               {get + "X-Forwarded-For: 1.2.3.4\r\nX-Spiffe-Id: admin\r\nKith-Decision: x\r\nForwarded: for=1\r\n\r\n", 1},
		"content of gRPC":        {post + "Content-Type: application/grpc\r\nContent-Length: 1\r\n\r\nx", 1},
		"HTTP/1.0":               {"GET /a HTTP/1.0\r\nHost: orders\r\n\r\n", 1},
		"head of 20 KiB":         {get + "X-Long: " + strings.Repeat("z", 20<<10) + "\r\n\r\n", 1},
		"many fields":            {get + strings.Repeat("X-Many: y\r\n", 900) + "\r\n", 1},
		"method of one's own":    {"BREW /a HTTP/1.1\r\nHost: orders\r\n\r\n", 1},
		"expectation":            {post + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\nhi" + get + "\r\n", 3},
		"upgrade nobody knows":   {get + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 1},
		"event stream, accepted": {get + "Accept: text/event-stream\r\n\r\n", 1},
	}
}

// Attack 54: what we refuse to read, net/http refuses as well, on both ways.
func TestBothWaysRefuse(t *testing.T) {
	t.Parallel()
	h, app := newHouse(t), &mirror{}
	_, addr := h.expose("orders", "http", serve(t, app.ServeHTTP))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST /{**}"))
	const inner = "GET /hidden HTTP/1.1\r\nHost: orders\r\n\r\n"
	for _, raw := range []string{
		"POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n" + inner,
		"POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: admin\r\n\r\n" + inner,
		"GET /a HTTP/1.1\r\nHost: orders\r\nX: a\rb\r\n\r\n" + inner, "GET /a HTTP/1.1\nHost: orders\n\n" + inner,
		"GET /a HTTP/1.1\r\nHost: orders/x\r\n\r\n" + inner, "GET a HTTP/1.1\r\nHost: orders\r\n\r\n" + inner,
	} {
		for _, first := range []string{"", aside, "GET /first HTTP/1.1\r\nHost: orders\r\n\r\n"} {
			got := conversation(t, dialPeer(t, h, "web", addr, "http/1.1").conn, first+raw, 4)
			if first != "" {
				got = got[1:]
			}
			if !strings.HasPrefix(got[0], "400 ") && !strings.HasPrefix(got[0], "502 ") && got[0] != "end" || len(got) > 2 {
				t.Errorf("%q behind %q: got %q", raw, first, got)
			}
			for _, saw := range app.take() {
				if strings.Contains(saw, "/hidden") {
					t.Errorf("%q behind %q: the application saw %q", raw, first, saw)
				}
			}
		}
	}
}
