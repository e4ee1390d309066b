//go:build attacks

package attacks

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// knockPlain says a lawful request without a word of TLS, or with a TLS that the
// caller has made up, and returns what came back.
func knockPlain(conn net.Conn, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(patience())
	if _, err := io.WriteString(conn, "GET /ok/plain HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok { // nobody has to wait for the rest of a ClientHello
		_ = half.CloseWrite()
	}
	answer, err := io.ReadAll(io.LimitReader(conn, 4096))
	return string(answer), err
}

// Attacks 26 and 66: whoever brings no certificate has no identity and gets
// nothing, also where a rule lets in anonymous callers, the service is only
// observed, and whatever protocols and versions are said. There is no mode in which
// both are taken.
func TestAttack26And66NothingWithoutACertificate(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.h.Kith("allow", "any", "GET /ok/{**}", "on", "orders")
	s.h.Kith("allow", "anonymous", "GET /ok/{**}", "on", "orders")
	for _, mode := range []string{"enforce", "observe"} {
		s.h.Kith("services", "edit", "orders", "--mode", mode)
		if answer, err := knockPlain(s.dialTCP()); strings.Contains(answer, "saw") || err == nil && strings.Contains(answer, "200") {
			t.Errorf("%s, plaintext: got %q, %v", mode, answer, err)
		}
		for _, protos := range [][]string{nil, {"http/1.1"}, {"h2"}, {"istio-peer-exchange", "istio"}, {"http/1.1", "istio"}, {"acme-tls/1"}, {""}} {
			if answer, err := knock(s.addr, &tls.Config{NextProtos: protos}); err == nil || answer != "" {
				t.Errorf("%s, no certificate, %q: got %q", mode, protos, answer)
			}
		}
		for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
			if answer, err := knock(s.addr, &tls.Config{Certificates: []tls.Certificate{s.svid}, MinVersion: version, MaxVersion: version}); err == nil {
				t.Errorf("%s, TLS %x: got %q", mode, version, answer)
			}
		}
		for _, proto := range []string{"istio-peer-exchange", "spdy/3", "http/0.9"} {
			if answer, err := knock(s.addr, &tls.Config{Certificates: []tls.Certificate{s.svid}, NextProtos: []string{proto}}); err == nil && strings.Contains(answer, "saw") {
				t.Errorf("%s, agreed on %s: got %q", mode, proto, answer)
			}
		}
	}
	if conn, err := s.dial("h2"); err == nil { // says HTTP/2 and speaks HTTP/1
		if answer, _ := knockPlain(conn, nil); strings.Contains(answer, "saw") {
			t.Errorf("HTTP/1 on a connection of HTTP/2: got %q", answer)
		}
	}
	for _, r := range b.seen() {
		t.Errorf("the application saw %s as %q", r.Target, r.XFCC)
	}
	if answer, err := knock(s.addr, &tls.Config{Certificates: []tls.Certificate{s.svid}, NextProtos: []string{"http/1.1"}}); err != nil || !strings.Contains(answer, "saw") {
		t.Errorf("a lawful caller: %q, %v", answer, err)
	}
}

// Attack 26: a hop through a service's own proxy gives a caller no identity but
// that service's: what it calls, itself included, it calls as itself, whatever
// the headers say that it passes on.
func TestAttack26AHopLaundersNoIdentity(t *testing.T) {
	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET /ok/{**}")
	as := func(service, path string) lab.Result {
		return s.h.Try("kith", "run", "--as", service, "--", "curl", "-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}",
			"-H", "X-Forwarded-Client-Cert: By=spiffe://dev.kith.local/dev/orders;URI=spiffe://dev.kith.local/dev/web",
			"-H", "X-Spiffe-Id: spiffe://dev.kith.local/dev/web", "http://orders"+path)
	}
	if r := as("orders", "/ok/hairpin"); r.Stdout != "403" {
		t.Errorf("orders calls itself as web: %+v", r)
	}
	if r := as("web", "/ok/lawful"); r.Stdout != "200" {
		t.Errorf("web calls orders: %+v", r)
	}
	for _, r := range b.seen() {
		if r.Target != "/ok/lawful" || strings.Count(r.XFCC, "URI=") != 1 || !strings.HasSuffix(r.XFCC, "URI=spiffe://dev.kith.local/dev/web") {
			t.Errorf("the application saw %s as %q", r.Target, r.XFCC)
		}
	}
}

// Attacks 57 and 59: who goes around a proxy gains nothing. The callee's decides,
// so a caller's own, there or not, plays no part; and an application that listens
// on a socket alone is reached by no other user.
func TestAttack57And59AroundTheProxy(t *testing.T) {
	h := lab.NewHost(t)
	h.Dev()
	private := filepath.Join(h.Dir, "app")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(private, "app.sock")
	b := newUnixBackend(t, socket)
	port := lab.Port(t)
	h.Start("kith", "run", "--as", "orders", "--expose", fmt.Sprintf("127.0.0.1:%d=unix:%s", port, socket), "--", "sleep", "infinity")
	h.WaitPort(port)
	h.Kith("allow", "web", "GET /ok/{**}", "on", "orders")
	curl := []string{"curl", "-sk", "-m", "20", "--noproxy", "*"}
	at := fmt.Sprintf("127.0.0.1:%d", port)
	for what, command := range map[string][]string{
		"the port in the clear":      append(curl, "http://"+at+"/ok/clear"),
		"the port without an SVID":   append(curl, "https://"+at+"/ok/bare"),
		"the port over HTTP/2":       append(curl, "--http2-prior-knowledge", "http://"+at+"/ok/h2"),
		"the port by another name":   append(curl, "-H", "Host: orders", "https://localhost:"+fmt.Sprint(port)+"/ok/name"),
		"through web, no variables":  append([]string{"kith", "run", "--as", "web", "--"}, append(curl, "http://"+at+"/ok/run")...),
		"the socket as another user": append([]string{"setpriv"}, asUser(stranger, append(curl, "--unix-socket", socket, "http://orders/ok/socket")...)...),
	} {
		if r := h.Try(command[0], command[1:]...); strings.Contains(r.Stdout, "saw") {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if listeners := h.Do("ss", "-Hlnt"); strings.Contains(listeners, "0.0.0.0:"+fmt.Sprint(port)) || strings.Contains(listeners, "[::]:"+fmt.Sprint(port)) || strings.Contains(listeners, "*:"+fmt.Sprint(port)) {
		t.Errorf("what was exposed on loopback listens elsewhere: %s", listeners)
	}
	// By a caller without a proxy, and by one behind it, the same is decided.
	svid := getSVID(t, h, "web")
	bare := &stage{t: t, h: h, addr: at, svid: svid}
	for path, want := range map[string]string{"/ok/a": "200", "/secret": "403"} {
		if got := bare.say("GET " + path + " HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); got.err != nil || fmt.Sprint(got.status) != "["+want+"]" {
			t.Errorf("%s without a proxy: %v, %v, want %s", path, got.status, got.err, want)
		}
		if r := h.Try("kith", "run", "--as", "web", "--", "curl", "-s", "-m", "30", "-o", "/dev/null", "-w", "%{http_code}", "http://orders"+path); r.Stdout != want {
			t.Errorf("%s through both: %+v, want %s", path, r, want)
		}
	}
	for _, r := range b.seen() {
		if r.Target != "/ok/a" {
			t.Errorf("the application saw %s as %q", r.Target, r.XFCC)
		}
	}
}

// Attack 58: before the proxy is ready the program is not started; when the proxy
// stops, hangs or is killed, nothing of its program goes out or in without it.
func TestAttack58ProxyNotReadyOrDead(t *testing.T) {
	h := lab.NewHost(t)
	marker := filepath.Join(h.Dir, "started")
	mustFail(t, h, "a run without an agent", "timeout", "60", program(t, h), "run", "--as", "web", "--", "touch", marker)
	if _, err := os.Stat(marker); err == nil {
		t.Error("the program was started before its data plane")
	}

	b := newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET /ok/{**}")
	calls := `echo at $http_proxy; trap "" TERM; while :; do curl -s -m 2 http://orders/ok/loop; sleep 0.1; done`
	proxy := s.h.Start("kith", "run", "--as", "web", "--", "sh", "-c", calls)
	lab.Eventually(t, lab.Soon, "calls pass", func() error {
		if len(b.seen()) == 0 {
			return fmt.Errorf("output: %s", proxy.Output())
		}
		return nil
	})
	_, after, _ := strings.Cut(proxy.Output(), "at http://")
	address := strings.TrimRight(strings.Fields(after)[0], "/")

	proxy.Signal(syscall.SIGSTOP) // it hangs: so do calls, and no way leads around it
	out := s.h.Try("curl", "-s", "-m", "3", "-x", "http://"+address, "http://orders/ok/hanging")
	if out.Code == 0 || strings.Contains(out.Stdout, "saw") {
		t.Errorf("a call through a proxy that hangs: %+v", out)
	}
	proxy.Signal(syscall.SIGKILL)
	<-proxy.Done()
	defer proxy.KillGroup() // the program lives on, and goes on trying
	out = s.h.Try("env", "http_proxy=http://"+address, "curl", "-s", "-m", "10", "http://orders/ok/dead")
	if out.Code == 0 || out.Stdout != "" {
		t.Errorf("a call through a proxy that is dead: %+v", out)
	}
	for _, r := range b.seen() { // what was in the socket of the one that hung dies with it
		if r.Target != "/ok/loop" || !strings.HasSuffix(r.XFCC, "URI=spiffe://dev.kith.local/dev/web") {
			t.Errorf("the application saw %s as %q", r.Target, r.XFCC)
		}
	}
}
