package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

// connectThrough asks an HTTP proxy for a tunnel.
func connectThrough(ctx context.Context, proxy, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr)
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		conn.Close()
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(res.Body)
		conn.Close()
		return nil, fmt.Errorf("%s: %s", res.Status, body)
	}
	return &peekedConn{Conn: conn, r: r}, nil
}

func TestConnectToAService(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, echo))
	out, _ := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	ctx := soon(t)

	t.Run("HTTP/1.1 inside", func(t *testing.T) {
		conn, err := connectThrough(ctx, out.OutboundAddr(), "orders:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /x HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
		answer, _ := io.ReadAll(conn)
		if !strings.Contains(string(answer), "200 OK") || !strings.Contains(string(answer), "GET /x") {
			t.Errorf("got %q", answer)
		}
	})
	t.Run("a ClientHello is told to use http", func(t *testing.T) {
		conn, err := connectThrough(ctx, out.OutboundAddr(), "orders:443")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte{0x16, 3, 1, 0, 200, 1, 0})
		answer, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 502 ") || !strings.Contains(string(answer), "use http://orders") {
			t.Errorf("got %q", answer)
		}
	})
	t.Run("anything else is refused", func(t *testing.T) {
		conn, err := connectThrough(ctx, out.OutboundAddr(), "orders:5432")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
		answer, _ := io.ReadAll(conn)
		if !strings.Contains(string(answer), "--upstream") {
			t.Errorf("got %q", answer)
		}
	})
	t.Run("unknown service", func(t *testing.T) {
		_, err := connectThrough(ctx, out.OutboundAddr(), "order:443")
		if err == nil || !strings.Contains(err.Error(), `502`) || !strings.Contains(err.Error(), `"orders"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another host", func(t *testing.T) {
		conn, err := connectThrough(ctx, out.OutboundAddr(), serve(t, echo))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET /direct HTTP/1.0\r\n\r\n")
		if answer, _ := io.ReadAll(conn); !strings.Contains(string(answer), "GET /direct") {
			t.Errorf("got %q", answer)
		}
	})
}

func TestConnectThroughThePreviousProxy(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	asked := make(chan string, 1)
	old := listenTCP(t, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		asked <- req.Method + " " + req.Host + " " + req.Header.Get("Proxy-Authorization")
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhello") // the far side speaks first
	})
	out, _ := h.outbound("web", func(c *Config) { c.Environ = []string{"HTTPS_PROXY=http://u:p@" + old} })
	conn, err := connectThrough(soon(t), out.OutboundAddr(), "example.com:443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, _ := io.ReadAll(conn)
	if how := <-asked; how != "CONNECT example.com:443 Basic dTpw" || string(got) != "hello" {
		t.Errorf("it was asked %q, we got %q", how, got)
	}
}

func wsEcho(rw http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(rw, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	for {
		kind, data, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), kind, data); err != nil {
			return
		}
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, wsEcho))
	_, client := h.outbound("web")
	client.Timeout = 0
	ctx := soon(t)
	if _, res, err := websocket.Dial(ctx, "ws://orders/ws", &websocket.DialOptions{HTTPClient: client}); err == nil || res.StatusCode != 403 {
		t.Fatalf("without a rule: got %v, want 403", err)
	}
	h.agent.Rules(proxytest.Allow("ws", "web", "orders", "GET /ws"))
	conn, _, err := websocket.Dial(ctx, "ws://orders/ws", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	for i := range 20 {
		want := fmt.Sprint("message ", i)
		if err := conn.Write(ctx, websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.Read(ctx); err != nil || string(got) != want {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	h.agent.Rules()
	if _, _, err := conn.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("rule taken away: got %v, want the connection cut", err)
	}
}

// tcpHouse is a raw TCP application and a local port that leads to it.
func tcpHouse(t *testing.T, app func(net.Conn)) (h *house, local string) {
	t.Helper()
	h = newHouse(t)
	h.expose("db", "tcp", listenTCP(t, app))
	h.agent.Service("web", "http")
	p, _ := h.run("web", func(c *Config) { c.Upstreams = []Upstream{{Service: "db", Listen: "127.0.0.1:0"}} })
	h.agent.Settled()
	return h, p.UpstreamAddrs()[0]
}

func TestTCPHalfClose(t *testing.T) {
	t.Parallel()
	// An application that answers only when its client has said that was all.
	h, local := tcpHouse(t, func(conn net.Conn) {
		all, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "%d bytes", len(all))
	})
	h.agent.Rules(proxytest.Allow("db", "web", "db", "tcp"))
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := strings.Repeat("x", 300_000)
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	conn.(*net.TCPConn).CloseWrite()
	conn.SetDeadline(time.Now().Add(proxytest.Patience))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "300000 bytes" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTCPDenied(t *testing.T) {
	t.Parallel()
	h, local := tcpHouse(t, func(net.Conn) { t.Error("the application was reached") })
	h.agent.Rules(proxytest.Allow("other-port", "web", "db", "tcp 1"))
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(proxytest.Patience))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("got %d bytes, %v, want an end", n, err)
	}
}

// Attack 34: a rule's port is the application's own, and stays it whatever port
// callers come in by.
func TestAttack34PortsAreTheApplications(t *testing.T) {
	t.Parallel()
	h, app := newHouse(t), listenTCP(t, func(conn net.Conn) { io.WriteString(conn, "in") })
	_, exposed := h.expose("db", "tcp", app)
	h.agent.Service("web", "http")
	p, _ := h.run("web", func(c *Config) { c.Upstreams = []Upstream{{Service: "db", Listen: "127.0.0.1:0"}} })
	h.agent.Settled()
	_, inner, _ := net.SplitHostPort(app)
	_, outer, _ := net.SplitHostPort(exposed)
	_, local, _ := net.SplitHostPort(p.UpstreamAddrs()[0])
	for _, tc := range []struct{ allowed, said string }{{inner, "in"}, {outer, ""}, {local, ""}} {
		h.agent.Rules(proxytest.Allow("port", "web", "db", "tcp "+tc.allowed))
		conn, err := net.Dial("tcp", p.UpstreamAddrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(proxytest.Patience))
		if said, _ := io.ReadAll(conn); string(said) != tc.said {
			t.Errorf("tcp %s allowed (application %s, exposed %s, upstream %s): got %q", tc.allowed, inner, outer, local, said)
		}
		conn.Close()
	}
}

func TestTCPIsCutWhenDenied(t *testing.T) {
	t.Parallel()
	h, local := tcpHouse(t, func(conn net.Conn) { io.Copy(conn, conn) })
	h.agent.Rules(proxytest.Allow("db", "web", "db", "tcp"))
	conn, err := net.Dial("tcp", local)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(proxytest.Patience))
	io.WriteString(conn, "ping")
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	h.agent.Rules()
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("got %v, want a reset", err)
	}
}

func TestConnectToRawTCPWhereTheServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("db", "tcp", listenTCP(t, func(conn net.Conn) { io.WriteString(conn, "220 ready\n") }))
	out, _ := h.outbound("web")
	h.agent.Rules(proxytest.Allow("db", "web", "db", "tcp"))
	conn, err := connectThrough(soon(t), out.OutboundAddr(), "db:5432")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); string(got) != "220 ready\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestEventStreamIsFlushedAndCutWhenDenied(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(rw, "data: 1\n\n")
		http.NewResponseController(rw).Flush()
		<-r.Context().Done()
	}))
	_, client := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	req, _ := http.NewRequestWithContext(soon(t), http.MethodGet, "http://orders/events", nil)
	req.Header.Set("Accept", "text/event-stream")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	h.agent.Rules()
	if _, err := io.ReadAll(res.Body); err == nil || req.Context().Err() != nil {
		t.Errorf("rule taken away: got %v, want the stream broken off", err)
	}
}

// A large body passes in both directions at once, through both proxies.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, func(rw http.ResponseWriter, r *http.Request) {
		http.NewResponseController(rw).EnableFullDuplex()
		io.Copy(rw, r.Body)
	}))
	_, client := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "POST /{**}"))
	const size = 8 << 20
	res, err := client.Post("http://orders/", "application/octet-stream", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if n, err := io.Copy(io.Discard, res.Body); n != size || err != nil {
		t.Errorf("got %d bytes, %v, want %d", n, err, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// A refusal arrives although the caller is still sending.
func TestDenialOfALargeUpload(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "too large", http.StatusRequestEntityTooLarge)
	}))
	_, client := h.outbound("web")
	for want, rules := range map[int][]*pb.Rule{403: nil, 413: {proxytest.Allow("all", "web", "orders", "POST /{**}")}} {
		h.agent.Rules(rules...)
		for range 10 {
			res, err := client.Post("http://orders/", "application/octet-stream", io.LimitReader(zeros{}, 4<<20))
			if err != nil {
				t.Fatalf("want %d: %v", want, err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("got %d %q, want %d", res.StatusCode, body, want)
			}
		}
	}
}
