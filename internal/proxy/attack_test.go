package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// seen records what an application was asked.
type seen struct {
	mu       sync.Mutex
	requests []*http.Request
}

func (s *seen) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
}

func (s *seen) take() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.requests
	s.requests = nil
	return taken
}

func attacked(t *testing.T) (*house, *seen, string) {
	t.Helper()
	h, app := newHouse(t), &seen{}
	_, addr := h.expose("orders", "http", serve(t, app.ServeHTTP))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST /{**}"))
	return h, app, addr
}

// attacks.md 3b 15, 17, 19: nobody says who he is but his certificate.
func TestAttack14And15IdentityHeadersAreOursAlone(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	forged := []string{
		"X-Forwarded-Client-Cert", "x_forwarded_client_cert", "X-FORWARDED_CLIENT-CERT", "X-Kith-Peer", "Kith-Identity",
		"X-Spiffe-Id", "L5d-Client-Id", "X-Envoy-Original-Path", "X-Original-URL", "X-Rewrite-Url", "X-HTTP-Method-Override",
		"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X_Forwarded_Proto", "Client-Cert", "Ssl-Client-Verify", "X-Real-Ip",
		"Remote_User", "Proxy", "X.Forwarded.Client.Cert", "Http2-Settings",
	}
	request := "GET /a HTTP/1.1\r\nHost: orders\r\nX-Harmless: yes\r\nCookie: a=b\r\n"
	for _, name := range forged {
		request += name + ": URI=spiffe://test.example/dev/admin\r\n"
	}
	// A header that Connection names is removed hop by hop: ours must not be.
	request += "Connection: X-Forwarded-Client-Cert, x-forwarded-client-cert, keep-alive\r\n\r\n"
	if got := dialPeer(t, h, "web", addr, "http/1.1").ask(request); got.status != 200 {
		t.Fatalf("got %d %q", got.status, got.body)
	}
	head := app.take()[0].Header
	for name, values := range head {
		for _, value := range values {
			if strings.Contains(value, "admin") {
				t.Errorf("the application sees %s: %s", name, value)
			}
		}
	}
	want := "By=spiffe://test.example/dev/orders;Hash="
	if got := head["X-Forwarded-Client-Cert"]; len(got) != 1 || !strings.HasPrefix(got[0], want) || !strings.HasSuffix(got[0], ";URI=spiffe://test.example/dev/web") {
		t.Errorf("X-Forwarded-Client-Cert: got %q", got)
	}
	if head.Get("X-Harmless") != "yes" || head.Get("Cookie") != "a=b" || head.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("other headers: got %v", head)
	}
}

// attacks.md 3b: trailers come after the decision, and must not add to it.
func TestTrailersDoNotCarryIdentity(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	trailer := make(chan http.Header, 1)
	_, addr := h.expose("orders", "http", serve(t, func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		trailer <- r.Trailer
	}))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "POST /{**}"))
	dialPeer(t, h, "web", addr, "http/1.1").ask("POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n" +
		"Trailer: X-Forwarded-Client-Cert, X-Spiffe-Id, X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Forwarded-Client-Cert: admin\r\nX-Spiffe-Id: admin\r\nX-Sum: 1\r\n\r\n")
	got := <-trailer
	for name := range got {
		if reserved(name) {
			t.Errorf("the application sees trailer %s", name)
		}
	}
	if got.Get("X-Sum") != "1" {
		t.Errorf("a trailer of the caller's own: got %v", got)
	}
}

// attacks.md 3a 6 and 3e 54, reliability.md 3.4: one request in, at most one out.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	const hidden = "GET /hidden HTTP/1.1\r\nHost: orders\r\n\r\n"
	body := fmt.Sprintf("0\r\n\r\n%s", hidden)
	for name, request := range map[string]string{
		"CL.TE":                       fmt.Sprintf("POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s", len(body), body),
		"TE.CL":                       fmt.Sprintf("POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n%s", body),
		"TE.TE":                       "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + body,
		"chunked, identity":           "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked, identity\r\n\r\n" + body,
		"xchunked":                    "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: xchunked\r\n\r\n" + body,
		"chunked with a Kelvin sign":  "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chun\u212aed\r\n\r\n" + body,
		"space before colon":          "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding : chunked\r\n\r\n" + body,
		"vertical tab":                "POST /a HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding:\x0bchunked\r\n\r\n" + body,
		"two lengths":                 "POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\n" + hidden,
		"two equal lengths":           "POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"length with plus":            "POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: +0\r\n\r\n",
		"length list":                 "POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 0, 0\r\n\r\n",
		"obs-fold":                    "GET /a HTTP/1.1\r\nHost: orders\r\nX: a\r\n Transfer-Encoding: chunked\r\n\r\n",
		"bare LF":                     "GET /a HTTP/1.1\nHost: orders\n\n",
		"one bare LF":                 "GET /a HTTP/1.1\r\nX: y\nHost: orders\r\n\r\n",
		"bare CR":                     "GET /a HTTP/1.1\r\nHost: orders\r\nX: y\rZ: w\r\n\r\n",
		"NUL in value":                "GET /a HTTP/1.1\r\nHost: orders\r\nX: a\x00b\r\n\r\n",
		"NUL in name":                 "GET /a HTTP/1.1\r\nHost: orders\r\nX\x00: a\r\n\r\n",
		"two hosts":                   "GET /a HTTP/1.1\r\nHost: orders\r\nHost: admin\r\n\r\n",
		"no host":                     "GET /a HTTP/1.1\r\n\r\n",
		"absolute form, another host": "GET http://admin/a HTTP/1.1\r\nHost: orders\r\n\r\n",
		"absolute form, user":         "GET http://orders@admin/a HTTP/1.1\r\nHost: orders\r\n\r\n",
		"chunked in HTTP/1.0":         "POST /a HTTP/1.0\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n" + body,
		"HTTP/0.9":                    "GET /a\r\n\r\n",
		"HTTP/2 in cleartext":         "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"bad version":                 "GET /a HTTP/1.1x\r\nHost: orders\r\n\r\n",
		"three words":                 "GET /a b HTTP/1.1\r\nHost: orders\r\n\r\n",
	} {
		got := dialPeer(t, h, "web", addr, "http/1.1").ask(request)
		if got.status != 400 && got.status != 0 {
			t.Errorf("%s: got %d, want 400 or an end", name, got.status)
		}
		if asked := app.take(); len(asked) > 0 {
			t.Errorf("%s: the application was asked %s %s", name, asked[0].Method, asked[0].RequestURI)
		}
	}
}

// Chunk framing that Go repairs must reach the application repaired, as one
// request, and never as two.
func TestOddChunksStayOneRequest(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	for i, body := range []string{
		"5;ext=1\r\nhello\r\n0\r\n\r\n",
		"5;\"\r\nGET /hidden HTTP/1.1\r\n\r\nhello\r\n0\r\n\r\n",
		"5\nhello\r\n0\r\n\r\n",
		"-5\r\nhello\r\n0\r\n\r\n",
		"ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"0x5\r\nhello\r\n0\r\n\r\n",
	} {
		dialPeer(t, h, "web", addr, "http/1.1").ask(fmt.Sprintf("POST /%d HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n%s", i, body))
	}
	asked := make(map[string]int)
	for _, r := range app.take() {
		if asked[r.RequestURI]++; asked[r.RequestURI] > 1 || r.RequestURI == "/hidden" {
			t.Errorf("the application was asked %s %d times", r.RequestURI, asked[r.RequestURI])
		}
	}
	if asked["/0"] != 1 {
		t.Error("a chunk extension is allowed, and the request did not arrive")
	}
}

// Pipelined requests are each decided.
func TestPipeliningDecidesEach(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	app := &seen{}
	_, addr := h.expose("orders", "http", serve(t, app.ServeHTTP))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("a", "web", "orders", "GET /a", "POST /a"))
	p := dialPeer(t, h, "web", addr, "http/1.1")
	p.send("POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 3\r\n\r\nabcGET /admin HTTP/1.1\r\nHost: orders\r\n\r\n" +
		"GET /a HTTP/1.1\r\nHost: orders\r\n\r\nGET /a HTTP/1.1\r\nHost: orders\r\nHost: b\r\n\r\n")
	var got []int
	for range 4 {
		got = append(got, p.read().status)
	}
	if want := []int{200, 403, 200, 400}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if n := len(app.take()); n != 2 {
		t.Errorf("the application was asked %d times, want 2", n)
	}
}

// An upgrade to HTTP/2 would carry requests past every later decision.
func TestUpgradeToH2CIsIgnored(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	for _, upgrade := range []string{"h2c", "HTTP/2.0", "TLS/1.0", "websocket, h2c"} {
		got := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: " + upgrade + "\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
		asked := app.take()
		if got.status != 200 || len(asked) != 1 || asked[0].Header.Get("Upgrade") != "" || asked[0].Header.Get("Http2-Settings") != "" {
			t.Errorf("%s: got %d, application saw %v", upgrade, got.status, asked)
		}
	}
}

// A protocol nobody knows is refused in words, before the application hears of it.
func TestUnknownUpgradeIsRefused(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	for _, upgrade := range []string{"tcp", "SPDY/3.1", "websocket, raw", "h2c, docker"} {
		got := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: " + upgrade + "\r\n\r\n")
		if asked := app.take(); got.status != 501 || !strings.Contains(got.body, "only WebSocket") || len(asked) != 0 {
			t.Errorf("%s: got %d %q, application saw %v", upgrade, got.status, got.body, asked)
		}
	}
}

func TestOversizeHead(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	big := strings.Repeat("x", 70<<10)
	if got := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a HTTP/1.1\r\nHost: orders\r\nX: " + big + "\r\n\r\n"); got.status != 431 {
		t.Errorf("HTTP/1.1: got %d, want 431", got.status)
	}
	req, _ := http.NewRequest(http.MethodGet, "https://"+addr+"/a", nil)
	req.Header.Set("X", big)
	if res, err := h2Client(t, h, "web", addr).Do(req); err == nil {
		res.Body.Close()
		if res.StatusCode != 431 {
			t.Errorf("HTTP/2: got %d, want 431", res.StatusCode)
		}
	}
	if n := len(app.take()); n > 0 {
		t.Errorf("the application was asked %d times", n)
	}
	fits := strings.Repeat("x", 50<<10)
	if got := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a HTTP/1.1\r\nHost: orders\r\nX: " + fits + "\r\n\r\n"); got.status != 200 {
		t.Errorf("50 KiB: got %d, want 200", got.status)
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	h, app, addr := attacked(t)
	p := dialPeer(t, h, "web", addr, "http/1.1")
	p.send("POST /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if got := p.read(); got.status != 100 {
		t.Fatalf("got %d, want 100", got.status)
	}
	if got := p.ask("hello"); got.status != 200 || len(app.take()) != 1 {
		t.Errorf("got %d, want 200", got.status)
	}
	// A denied request is refused without its body having been asked for.
	denied := dialPeer(t, h, "web", addr, "http/1.1").ask("PUT /a HTTP/1.1\r\nHost: orders\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	if denied.status != 403 {
		t.Errorf("denied: got %d, want 403", denied.status)
	}
}

func FuzzStrip(f *testing.F) {
	f.Add("X-Forwarded-Client-Cert")
	f.Add("x_kith_peer")
	f.Add("Accept")
	f.Fuzz(func(t *testing.T, name string) {
		head := http.Header{name: {"v"}, "X-Spiffe-Id": {"v"}, "Accept": {"v"}}
		strip(head)
		if _, left := head["X-Spiffe-Id"]; left || len(head["Accept"]) != 1 {
			t.Errorf("%q: got %v", name, head)
		}
		// However it is written, what a CGI program would read as ours is gone.
		cgi := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '_'
		}, strings.ToLower(name))
		if _, left := head[name]; left && (strings.HasPrefix(cgi, "x_forwarded_") || strings.HasPrefix(cgi, "x_kith_")) && len(cgi) == len(name) {
			t.Errorf("%q is left", name)
		}
	})
}

func FuzzListenTo(f *testing.F) {
	for _, seed := range []string{preface, "GET / HTTP/1.1", "PRI", "PROPFIND / ", "\x16\x03\x01", "\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, first []byte) {
		said := listenTo(first)
		if said == speaksH2 && !bytes.HasPrefix(first, []byte(preface)) {
			t.Errorf("%q taken for HTTP/2", first)
		}
		if said == unclear && len(first) > 32 {
			t.Errorf("%q is unclear after %d bytes", first, len(first))
		}
		// More bytes never change a clear answer.
		for i := range first {
			if early := listenTo(first[:i]); early != unclear && early != said {
				t.Errorf("%q: %d, then %d", first, early, said)
			}
		}
	})
}

func BenchmarkStrip(b *testing.B) {
	head := httptest.NewRequest(http.MethodGet, "/", nil).Header
	for _, name := range []string{"Accept", "Accept-Encoding", "User-Agent", "Cookie", "X-Request-Id", "Authorization", "Content-Type", "X-Trace"} {
		head.Set(name, "v")
	}
	b.ReportAllocs()
	for b.Loop() {
		strip(head)
	}
}
