//go:build attacks

package attacks

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is a raw HTTP/2 connection.
type frames struct {
	*http2.Framer

	conn  *tls.Conn
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
	names []string // status of each stream that was answered, in order
}

func (s *stage) frames() (*frames, error) {
	conn, err := s.dial("h2")
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(patience()); err != nil {
		return nil, err
	}
	f := &frames{Framer: http2.NewFramer(conn, conn), conn: conn}
	f.AllowIllegalWrites = true
	f.enc = hpack.NewEncoder(&f.block)
	f.dec = hpack.NewDecoder(4096, func(h hpack.HeaderField) {
		if h.Name == ":status" {
			f.names = append(f.names, h.Value)
		}
	})
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	return f, f.WriteSettings()
}

// encode is a header block of names and values as given, lawful or not.
func (f *frames) encode(fields ...string) []byte {
	f.block.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = f.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(f.block.Bytes())
}

// status reads until the stream was answered, reset, or the connection ends.
func (f *frames) status(stream uint32) string {
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "end"
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			f.names = nil
			if _, err := f.dec.Write(frame.HeaderBlockFragment()); err != nil {
				return "end"
			}
			if frame.StreamID == stream && len(f.names) > 0 {
				return f.names[0]
			}
		case *http2.RSTStreamFrame:
			if frame.StreamID == stream {
				return "reset"
			}
		case *http2.GoAwayFrame:
			return "goaway"
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		}
	}
}

// Attacks 13, 18, 19 and 54: what HTTP/2 can say and HTTP/1 cannot never becomes
// another request to the application.
func TestAttack54HTTP2ToHTTP1(t *testing.T) {
	eachBackend(t, func(t *testing.T, s *stage, b backend) {
		s.allow("GET,POST /ok/{**}")
		const crlf = "\r\nHost: admin\r\n\r\nGET /admin HTTP/1.1\r\nHost: admin\r\n\r\n"
		basic := func(method, path string, more ...string) []string {
			return append([]string{":method", method, ":scheme", "https", ":authority", "orders", ":path", path}, more...)
		}
		for i, fields := range [][]string{
			basic("GET", "/ok/h2", "transfer-encoding", "chunked"), basic("GET", "/ok/h2", "connection", "close"), basic("GET", "/ok/h2", "Transfer-Encoding", "chunked"),
			basic("GET", "/ok/h2", "keep-alive", "1"), basic("GET", "/ok/h2", "upgrade", "h2c"), basic("GET", "/ok/h2", "proxy-connection", "close"), basic("GET", "/ok/h2", "te", "chunked"),
			basic("GET", "/ok/h2", "x", "a"+crlf), basic("GET", "/ok/h2", "x"+crlf, "a"), basic("GET", "/ok/h2"+crlf), basic("GET"+crlf, "/ok/h2"), basic("GET", "/ok/h2", "x", "a\nb"), basic("GET", "/ok/h2", "x", "a\x00b"),
			basic("GET", "/ok/h2 HTTP/1.1"), basic("GET /ok/x HTTP/1.1\r\nx: ", "/ok/h2"), basic("GET", "ok/h2"), basic("GET", ""), basic("GET", "*"), basic("OPTIONS", "*"), basic("GET", "https://orders/ok/h2"),
			basic("GET", "/ok/h2#x"), basic("GET", "/ok/../admin"), basic("GET", "/ok/%2e%2e/admin"), basic("GET", "//ok/h2"), basic("GET", "/admin"), basic("get", "/ok/h2"),
			basic("CONNECT", "/ok/h2"),
			{":method", "CONNECT", ":authority", "orders:80"},
			{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "orders", ":path", "/ok/h2"},
			basic("GET", "/ok/h2", "host", "admin"),
			{":method", "GET", ":scheme", "https", ":authority", "orders" + crlf, ":path", "/ok/h2"},
			{":method", "GET", ":scheme", "https", ":authority", "a b", ":path", "/ok/h2"},
			{":method", "GET", ":method", "POST", ":scheme", "https", ":authority", "orders", ":path", "/ok/h2"},
			{":method", "GET", ":scheme", "https", ":authority", "orders", ":path", "/ok/h2", ":path", "/admin"},
			{":scheme", "https", ":authority", "orders", ":path", "/ok/h2"},
			{":method", "GET", ":authority", "orders", ":path", "/ok/h2"},
			{":method", "GET", ":scheme", "https", ":authority", "orders"},
			{":method", "GET", "x", "y", ":scheme", "https", ":authority", "orders", ":path", "/ok/h2"},
			basic("GET", "/ok/h2", ":status", "200"), basic("GET", "/ok/h2", ":evil", "x"), basic("GET", "/ok/h2", "", "x"),
			basic("GET", "/ok/h2", "X-Upper", "y"), basic("POST", "/ok/h2", "content-length", "5"), basic("POST", "/ok/h2", "content-length", "-1"), basic("POST", "/ok/h2", "content-length", "0", "content-length", "9"),
		} {
			if status := ask(t, s, fields, nil); status == "200" {
				t.Errorf("%d: %q was answered 200", i, fields)
			}
		}
		for body, length := range map[string]string{"hello": "3", "hi": "5", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n": "0"} {
			ask(t, s, basic("POST", "/ok/length", "content-length", length), []byte(body))
		}
		if status := ask(t, s, basic("POST", "/ok/lawful", "content-length", "5", "te", "trailers"), []byte("hello")); status != "200" {
			t.Errorf("a lawful request: %s", status)
		}
		for _, r := range b.seen() {
			if r.Target != "/ok/lawful" && r.Target != "/ok/length" && r.Target != "/ok/h2" || r.Host != "orders" && r.Target != "/ok/h2" {
				t.Errorf("%s saw %s %q for host %q", b.name(), r.Method, r.Target, r.Host)
			}
			if strings.Contains(r.Host, "admin") {
				t.Errorf("%s saw %q for host %q", b.name(), r.Target, r.Host)
			}
		}
	})
}

// ask sends one request on a connection of its own.
func ask(t *testing.T, s *stage, fields []string, body []byte) string {
	t.Helper()
	f, err := s.frames()
	if err != nil {
		t.Fatal(err)
	}
	defer f.conn.Close()
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(fields...), EndHeaders: true, EndStream: body == nil}); err != nil {
		return "end"
	}
	if body != nil {
		_ = f.WriteData(1, true, body)
	}
	return f.status(1)
}

// Attack 15: what a caller says of itself over HTTP/2 does not arrive, by no
// spelling; what the proxy says of it does.
func TestAttack15And19IdentityHeaders(t *testing.T) {
	eachBackend(t, func(t *testing.T, s *stage, b backend) {
		s.allow("GET /ok/{**}")
		fields := []string{":method", "GET", ":scheme", "https", ":authority", "orders", ":path", "/ok/headers"}
		for _, name := range []string{
			"x-forwarded-client-cert", "x_forwarded_client_cert", "x-forwarded-client_cert", "x.forwarded.client.cert", "x-spiffe-id", "x-kith-peer", "kith-decision", "l5d-client-id",
			"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "client-cert", "ssl-client-cert", "x-ssl-client-dn", "remote-user", "remote_user", "x-envoy-peer-metadata",
		} {
			fields = append(fields, name, "URI=spiffe://dev.kith.local/dev/admin")
		}
		if status := ask(t, s, fields, nil); status != "200" {
			t.Fatalf("got %s", status)
		}
		var raw strings.Builder
		raw.WriteString("GET /ok/headers HTTP/1.1\r\nHost: orders\r\nConnection: close, X-Forwarded-Client-Cert, X-Forwarded-Proto, Cookie\r\n")
		for i := 8; i+1 < len(fields); i += 2 {
			fmt.Fprintf(&raw, "%s: %s\r\n", fields[i], fields[i+1])
		}
		if got := s.sayAwaiting(raw.String()+"\r\n", 1); got.ok() != 1 {
			t.Fatalf("got %v", got.status)
		}
		seen := b.seen()
		if len(seen) != 2 {
			t.Fatalf("%d requests arrived", len(seen))
		}
		for _, r := range seen {
			if strings.Contains(r.XFCC, "admin") || !strings.HasSuffix(r.XFCC, ";URI=spiffe://dev.kith.local/dev/web") || strings.Count(r.XFCC, "By=") != 1 {
				t.Errorf("%s saw X-Forwarded-Client-Cert %q", b.name(), r.XFCC)
			}
			for name, values := range r.head {
				if strings.Contains(strings.Join(values, ","), "admin") {
					t.Errorf("%s saw %s: %q", b.name(), name, values)
				}
			}
		}
	})
}

// Attack 55: who floods a connection loses it, and nobody else.
func TestAttack55Floods(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET /ok/{**}")
	request := []string{":method", "GET", ":scheme", "https", ":authority", "orders", ":path", "/ok/flood"}
	for name, flood := range map[string]func(f *frames, i uint32) error{
		"rapid reset": func(f *frames, i uint32) error {
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.encode(request...), EndHeaders: true, EndStream: true}); err != nil {
				return err
			}
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		},
		"CONTINUATION": func(f *frames, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(request...)})
			}
			return f.WriteContinuation(1, false, f.encode("x", strings.Repeat("y", 1000)))
		},
		"empty CONTINUATION": func(f *frames, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.encode(request...)})
			}
			return f.WriteContinuation(1, false, nil)
		},
		"header table": func(f *frames, i uint32) error {
			cookie := strings.Repeat("c", 4000)
			fields := append([]string(nil), request...)
			for range 1000 {
				fields = append(fields, "cookie", cookie)
			}
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.encode(fields...), EndHeaders: true, EndStream: true})
		},
		"SETTINGS": func(f *frames, _ uint32) error { return f.WriteSettings() },
		"PING":     func(f *frames, i uint32) error { return f.WritePing(false, [8]byte{byte(i)}) },
		"zero window": func(f *frames, i uint32) error {
			if i == 0 {
				if err := f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}); err != nil {
					return err
				}
			}
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.encode(request...), EndHeaders: true, EndStream: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := s.frames()
			if err != nil {
				t.Fatal(err)
			}
			defer f.conn.Close()
			if err := f.conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Fatal(err)
			}
			var sent uint32
			for ; sent < 20000; sent++ { // nothing is read: the flood goes on until it is cut or stuck
				if err := flood(f, sent); err != nil {
					break
				}
			}
			begin := time.Now()
			if got := s.say("GET /ok/other HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); got.ok() != 1 {
				t.Errorf("another connection: %+v", got)
			}
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("another caller waited %v", took)
			}
			t.Logf("%d frames were taken", sent)
		})
	}
	if rss := memoryOf(t, s); rss > 300<<20 {
		t.Errorf("the proxies hold %d MiB", rss>>20)
	}
}

// memoryOf is the largest resident memory of the kith programs of a stage.
func memoryOf(t *testing.T, s *stage) (most int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		env, err := os.ReadFile("/proc/" + entry.Name() + "/environ")
		if err != nil || !bytes.Contains(env, []byte(s.h.Dir)) {
			continue
		}
		status, err := os.ReadFile("/proc/" + entry.Name() + "/status")
		if err != nil {
			continue
		}
		for l := range strings.Lines(string(status)) {
			if kib, err := strconv.Atoi(strings.Fields(strings.TrimPrefix(l, "VmRSS:") + " x")[0]); err == nil && strings.HasPrefix(l, "VmRSS:") {
				most = max(most, kib<<10)
			}
		}
	}
	return most
}

// Attack 55: callers that say nothing, or a byte at a time, are let go.
func TestAttack55SlowCallers(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET,POST /ok/{**}")
	type slow struct {
		name string
		conn io.ReadCloser
	}
	var all []slow
	for range 200 { // no handshake at all
		conn, err := s.dialTCP()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, slow{"no handshake", conn})
	}
	for range 50 {
		conn, err := s.dial("http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "GET /ok/slow HTTP/1.1\r\nHost: ord"); err != nil {
			t.Fatal(err)
		}
		all = append(all, slow{"half a head", conn})
	}
	begin := time.Now()
	if got := s.say("GET /ok/other HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); got.ok() != 1 || time.Since(begin) > 5*time.Second {
		t.Errorf("another caller: %v after %v", got.status, time.Since(begin))
	}
	for _, c := range all {
		if _, err := io.Copy(io.Discard, c.conn); err != nil && !ended(err) {
			t.Errorf("%s: still open after %v", c.name, lab.Soon)
		}
		c.conn.Close()
	}
	for _, r := range b.seen() {
		if r.Target != "/ok/other" || r.Method != http.MethodGet {
			t.Errorf("the application saw %s %s", r.Method, r.Target)
		}
	}
}
