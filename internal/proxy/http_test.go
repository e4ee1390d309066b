package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/proxy/proxytest"
)

func echo(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(rw, "%s %s %s host=%s body=%s", r.Proto, r.Method, r.RequestURI, r.Host, body)
}

func TestCallThroughBothProxies(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, echo))
	_, client := h.outbound("web")

	status, body, head := get(t, client, "http://orders/v1/orders")
	id := head.Get("Kith-Decision")
	if status != 403 || len(id) != 16 || !strings.Contains(body, "kith why "+id) {
		t.Fatalf("without a rule: got %d %q, id %q, want 403 with a decision id", status, body, id)
	}
	d := h.agent.Decision("the denial", func(d *pb.Decision) bool { return d.GetId() == id })
	if d.GetFrom() != "spiffe://test.example/dev/web" || d.GetTo() != "orders" || d.GetPath() != "/v1/orders" || d.GetEffect() != "deny" {
		t.Errorf("reported decision: %v", d)
	}

	h.agent.Rules(proxytest.Allow("web-reads", "web", "orders", "GET /v1/orders/{**}"))
	status, body, _ = get(t, client, "http://orders/v1/orders?a=1&b=%2F")
	if status != 200 || !strings.Contains(body, "GET /v1/orders?a=1&b=%2F host=orders") {
		t.Fatalf("with a rule: got %d %q", status, body)
	}
	h.agent.Decision("the allow", func(d *pb.Decision) bool { return d.GetEffect() == "allow" && d.GetRule() == "web-reads" })

	h.agent.Rules()
	if status, _, _ = get(t, client, "http://orders/v1/orders"); status != 403 {
		t.Errorf("rule taken away, same connection: got %d, want 403", status)
	}
}

func TestDenialSpeaksJSON(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", serve(t, echo))
	_, client := h.outbound("web")
	req, _ := http.NewRequest(http.MethodGet, "http://orders/", nil)
	req.Header.Set("Accept", "application/json")
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ Decision, Hint string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Decision != res.Header.Get("Kith-Decision") {
		t.Errorf("got %+v, %v", answer, err)
	}
}

func TestAttack11OnlyTheDecidedPathIsForwarded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, echo))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	peer := dialPeer(t, h, "web", addr, "http/1.1")
	for target, want := range map[string]string{
		"/a/./b":          "/a/b",
		"/a/x/../b?q=../": "/a/b?q=../",
		"/%61/b":          "/a/b",
		"/caf%c3%a9":      "/caf%C3%A9",
		"/a%20b":          "/a%20b",
		"/":               "/",
		"/a/":             "/a/",
		"/?":              "/?",
		"/a'b(c)":         "/a'b(c)",
		"/[x]":            "/%5Bx%5D",
	} {
		answer := peer.ask("GET " + target + " HTTP/1.1\r\nHost: orders\r\n\r\n")
		if !strings.Contains(answer.body, "GET "+want+" host") {
			t.Errorf("%s: application got %d %q, want %s", target, answer.status, answer.body, want)
		}
	}
	for _, target := range []string{
		"/a//b", "/a%2fb", "/a%5cb", `/a\b`, "/a%00", "/a;x=1", "/../a", "/%252e%252e/a", "/%c0%ae", "/a#b", "/a%23b%2f",
		"/..;/a", "//a", "/a%",
	} {
		answer := dialPeer(t, h, "web", addr, "http/1.1").ask("GET " + target + " HTTP/1.1\r\nHost: orders\r\n\r\n")
		if answer.status != 400 {
			t.Errorf("%s: got %d %q, want 400", target, answer.status, answer.body)
		}
	}
	answer := dialPeer(t, h, "web", addr, "http/1.1").ask("GET /a//b HTTP/1.1\r\nHost: orders\r\n\r\n")
	id := answer.head.Get("Kith-Decision")
	d := h.agent.Decision("the refusal", func(d *pb.Decision) bool { return d.GetId() == id })
	if d.GetReason() != "path_not_canonical" {
		t.Errorf("reason: got %q", d.GetReason())
	}
}

func TestAttack13MethodsThatAreNoRequests(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, echo))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET,POST,OPTIONS /{**}"))
	for request, want := range map[string]int{
		"CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\n":                                           400,
		"OPTIONS * HTTP/1.1\r\nHost: orders\r\n\r\n":                                                      400,
		"OPTIONS /a HTTP/1.1\r\nHost: orders\r\n\r\n":                                                     200,
		"get /a HTTP/1.1\r\nHost: orders\r\n\r\n":                                                         403,
		"BREW /a HTTP/1.1\r\nHost: orders\r\n\r\n":                                                        403,
		"DELETE /a HTTP/1.1\r\nHost: orders\r\n\r\n":                                                      403,
		"POST /a HTTP/1.1\r\nHost: orders\r\nX-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n": 200,
	} {
		if got := dialPeer(t, h, "web", addr, "http/1.1").ask(request); got.status != want {
			t.Errorf("%.30q: got %d %q, want %d", request, got.status, got.body, want)
		}
	}
}

func TestHTTP2(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, echo))
	h.agent.Service("web", "http")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "POST /{**}"))
	client := h2Client(t, h, "web", addr)
	res, err := client.Post("https://"+addr+"/a/./b", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	// The application speaks HTTP/1.1 whatever the caller speaks.
	if res.ProtoMajor != 2 || !strings.Contains(string(body), "HTTP/1.1 POST /a/b") || !strings.Contains(string(body), "body=hello") {
		t.Errorf("got %s %q", res.Proto, body)
	}
	h.agent.Rules()
	res, err = client.Post("https://"+addr+"/a", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 403 {
		t.Errorf("rule taken away, same HTTP/2 connection: got %d, want 403", res.StatusCode)
	}
}

func TestErrorsOfTheWayOut(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.agent.Service("orders", "http")
	h.agent.Service("impostor", "http", serve(t, echo))
	_, client := h.outbound("web")
	for target, want := range map[string]string{
		"http://order/":  `502 kith: unknown service "order", did you mean "orders"?`,
		"http://orders/": "503 kith: no endpoint of orders is registered",
	} {
		status, body, _ := get(t, client, target)
		if got := fmt.Sprint(status, " ", body); !strings.HasPrefix(got, want) {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
	if status, _, _ := get(t, client, "http://impostor/"); status != 502 {
		t.Errorf("an endpoint that speaks no TLS: got %d, want 502", status)
	}
}

// Attacks 60, 64 and 67: an address proves nothing, whoever has given it: the
// certificate must be one of the service that was meant.
func TestAttack60EndpointWithTheWrongIdentityGetsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, addr := h.expose("orders", "http", serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the wrong service was asked") }))
	h.agent.Service("billing", "http", addr)
	_, client := h.outbound("web")
	status, body, _ := get(t, client, "http://billing/")
	if status != 502 || !strings.Contains(body, "spiffe://test.example/dev/orders") {
		t.Errorf("got %d %q, want 502 that names who answered", status, body)
	}
}

func TestApplicationDown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.expose("orders", "http", "127.0.0.1:1")
	_, client := h.outbound("web")
	h.agent.Rules(proxytest.Allow("all", "web", "orders", "GET /{**}"))
	status, body, _ := get(t, client, "http://orders/")
	if status != 502 || !strings.Contains(body, "not listening") {
		t.Errorf("got %d %q", status, body)
	}
}

func TestOtherHostsGoTheirOldWay(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	direct := serve(t, echo)
	var viaOld string
	old := serve(t, func(rw http.ResponseWriter, r *http.Request) { viaOld = r.RequestURI })
	_, client := h.outbound("web", func(c *Config) {
		c.Environ = []string{"http_proxy=http://" + old, "NO_PROXY=127.0.0.1"}
	})
	if status, body, _ := get(t, client, "http://"+direct+"/x"); status != 200 || !strings.Contains(body, "GET /x") {
		t.Errorf("direct: got %d %q", status, body)
	}
	if status, _, _ := get(t, client, "http://example.com/y"); status != 200 || viaOld != "http://example.com/y" {
		t.Errorf("by the previous proxy: got %d, it saw %q", status, viaOld)
	}
}
