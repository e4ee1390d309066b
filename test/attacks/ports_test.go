//go:build attacks

package attacks

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/kith-id/kith/test/lab"
)

// listening are the sockets that processes and all they started listen on, as
// host:port or as a path.
func listening(t *testing.T, h *lab.Host, what string, pids ...int) (all []string) {
	t.Helper()
	for i := 0; i < len(pids); i++ { // it grows: children, and their children
		files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pids[i]))
		for _, task := range files {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pids[i], task.Name()))
			for _, field := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil && !slices.Contains(pids, pid) {
					pids = append(pids, pid)
				}
			}
		}
	}
	for line := range strings.Lines(h.Do("ss", "-Hlnp", what)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && slices.ContainsFunc(pids, func(pid int) bool { return strings.Contains(line, fmt.Sprintf("pid=%d,", pid)) }) {
			all = append(all, fields[slices.IndexFunc(fields, func(f string) bool { return strings.ContainsAny(f, ":/") })])
		}
	}
	return all
}

// Attack 61: what the programs listen on is what is documented, and nothing there
// shows memory, configuration or a console, or takes an order, to who only connects.
func TestAttack61PortsAndSocketsAreFew(t *testing.T) {
	d, b := newDomain(t), newGoBackend(t)
	exposed := fmt.Sprintf("127.0.0.1:%d", lab.Port(t))
	run := d.h.Start("kith", "run", "--as", "orders", "--expose", exposed+"="+strconv.Itoa(b.port()), "--", "sh", "-c", "echo at $http_proxy; exec sleep infinity")
	var outbound string
	lab.Eventually(t, lab.Soon, "the proxy serves", func() error {
		_, after, ok := strings.Cut(run.Output(), "at http://")
		if !ok {
			return fmt.Errorf("output: %s", run.Output())
		}
		outbound = strings.TrimRight(strings.Fields(after)[0], "/")
		return nil
	})
	pids := []int{d.server.PID(), d.agent.PID(), run.PID()}
	got, want := listening(t, d.h, "-t", pids...), append([]string{d.address, d.admin, exposed, outbound}, d.metrics...)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the programs listen on\n%q, want\n%q", got, want)
	}
	if more := listening(t, d.h, "-u", pids...); len(more) > 0 {
		t.Errorf("the programs listen for datagrams on %q", more)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: lab.Soon}
	for _, address := range got {
		for _, path := range []string{
			"/", "/metrics", "/healthz", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/config_dump", "/clusters", "/stats", "/quitquitquit", "/logging?level=debug", "/ready", "/admin", "/v1/agent",
		} {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
				askAdmin(t, client, d, address, method, path)
			}
		}
	}
	sockets := listening(t, d.h, "-x", pids...)
	if len(sockets) < 2 {
		t.Errorf("the programs have the sockets %q, of which the agent's and the server's must be two", sockets)
	}
	for _, path := range sockets {
		for _, version := range []string{"--http1.1", "--http2-prior-knowledge"} {
			r := d.h.Try("setpriv", asUser(stranger, "curl", "-s", "-m", "10", "--output", "-", version, "--unix-socket", path, "http://localhost/metrics")...)
			if strings.ContainsAny(r.Stdout, "{<") || strings.Contains(r.Stdout, "spiffe") {
				t.Errorf("%s of %s said %q", version, path, r.Stdout)
			}
		}
	}
	if seen := b.seen(); len(seen) > 0 {
		t.Errorf("the application saw %+v", seen)
	}
}

// askAdmin asks one listener for what only /metrics and /healthz may answer.
func askAdmin(t *testing.T, client *http.Client, d *domain, address, method, path string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		return // no HTTP is spoken there
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	offered := slices.Contains(d.metrics, address) && method == "GET" && (path == "/metrics" || path == "/healthz")
	if (res.StatusCode < 300) != offered {
		t.Errorf("%s http://%s%s: got %s", method, address, path, res.Status)
	}
	for _, told := range []string{"spiffe://", "orders", "web-reads", "vm-1", "goroutine ", "/state", "acme.example"} {
		if strings.Contains(string(text), told) {
			t.Errorf("%s http://%s%s tells of %q", method, address, path, told)
		}
	}
}

// Attack 64: what is no service is reached as without us, and never under an
// identity, whatever name is said besides; and no name leads who means a service
// to anybody else. Kith is no fence for what programs call outside.
func TestAttack64NamesOutsideGetNoIdentity(t *testing.T) {
	b, outside := newGoBackend(t), newGoBackend(t)
	s := newStage(t, b.port())
	s.allow("GET /ok/{**}")
	proxy := s.h.Start("kith", "run", "--as", "web", "--", "sh", "-c", "echo at $http_proxy; exec sleep infinity")
	var address string
	lab.Eventually(t, lab.Soon, "the outbound listener is there", func() error {
		_, after, ok := strings.Cut(proxy.Output(), "at http://")
		if !ok {
			return fmt.Errorf("output: %s", proxy.Output())
		}
		address = strings.TrimRight(strings.Fields(after)[0], "/")
		return nil
	})
	at := fmt.Sprintf("127.0.0.1:%d", outside.port())
	const end = "\r\nConnection: close\r\n\r\n"
	for _, raw := range []string{
		"GET http://orders/ok/1 HTTP/1.1\r\nHost: " + at + end,
		"GET http://" + at + "/out/2 HTTP/1.1\r\nHost: orders" + end,
		"GET http://orders@" + at + "/out/3 HTTP/1.1\r\nHost: orders@" + at + end,
		"GET http://" + at + "/out/4 HTTP/1.1\r\nX-Forwarded-Host: orders\r\nHost: " + at + end,
		"GET http://" + strings.Replace(at, "127.0.0.1", "orders.localhost", 1) + "/out/5 HTTP/1.1\r\nHost: " + strings.Replace(at, "127.0.0.1", "orders.localhost", 1) + end,
		"GET http://orders#@" + at + "/ok/6 HTTP/1.1\r\nHost: orders" + end,
		"GET http://orders\\@" + at + "/ok/7 HTTP/1.1\r\nHost: orders" + end,
		"CONNECT " + at + " HTTP/1.1\r\nHost: orders\r\n\r\nGET /out/8 HTTP/1.1\r\nHost: orders" + end,
		"CONNECT " + at + " HTTP/1.1\r\nHost: " + at + "\r\n\r\nGET /out/9 HTTP/1.1\r\nHost: orders" + end,
		"CONNECT orders:80 HTTP/1.1\r\nHost: " + at + "\r\n\r\nGET /ok/10 HTTP/1.1\r\nHost: " + at + end,
		"CONNECT orders:80 HTTP/1.1\r\nHost: orders:80\r\n\r\nGET /ok/lawful HTTP/1.1\r\nHost: " + at + end,
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(patience())
		_, _ = io.WriteString(conn, raw)
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	lawful := 0
	for _, r := range b.seen() {
		if lawful++; !strings.HasPrefix(r.Target, "/ok/") || !strings.HasSuffix(r.XFCC, "URI=spiffe://dev.kith.local/dev/web") {
			t.Errorf("orders saw %s as %q", r.Target, r.XFCC)
		}
	}
	if lawful == 0 || len(outside.seen()) == 0 {
		t.Errorf("orders saw %d requests, the host outside %d: nothing was tried", lawful, len(outside.seen()))
	}
	for _, r := range outside.seen() {
		for name, values := range r.head {
			if said := strings.Join(values, " "); strings.Contains(said, "spiffe") || strings.HasPrefix(name, "X-Forwarded-Client") || strings.HasPrefix(name, "Workload-") {
				t.Errorf("the host outside was told %s: %s", name, said)
			}
		}
		if !strings.HasPrefix(r.Target, "/out/") {
			t.Errorf("the host outside got %s, which was for orders", r.Target)
		}
	}
}

// Attack 68: nothing a caller says becomes a line, a command of the terminal, or
// text that reads another way than it is written, in logs and on the screens of
// operators.
func TestAttack68WhatCallersSayIsNoLine(t *testing.T) {
	b := newGoBackend(t)
	s := &stage{t: t, h: lab.NewHost(t)}
	dev := s.h.Dev("--log-level", "debug")
	s.svid, s.addr = getSVID(t, s.h, "web"), fmt.Sprintf("127.0.0.1:%d", lab.Port(t))
	proxy := s.h.Start("kith", "run", "--log-level", "debug", "--as", "orders", "--expose", s.addr+"="+strconv.Itoa(b.port()), "--", "sleep", "infinity")
	lab.Eventually(t, lab.Soon, "orders answers", func() error {
		if got := s.say("GET /first HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n"); len(got.status) == 0 {
			return fmt.Errorf("%v; %s", got.err, proxy.Output())
		}
		return nil
	})
	watch := s.h.Start("kith", "watch")
	evil := []string{
		"%0d%0aforged%1b[2J", "%0Aforged", "%u000aforged", "%c2%9b31m", "%9b31m", "%e2%80%aeforged", "\\nforged", "\x1b[2Jforged", "\x9b2J", "\xc2\x9b2J", "\xe2\x80\xaeforged", "\x7f", "\x00", "\rforged", "\u2028forged",
	}
	for _, e := range evil {
		for _, raw := range []string{
			"GET /" + e + " HTTP/1.1\r\nHost: orders\r\n", "GET /a?" + e + " HTTP/1.1\r\nHost: orders\r\n", "GET /b HTTP/1.1\r\nHost: orders" + e + "\r\n",
			"GET /c HTTP/1.1\r\nHost: orders\r\nUser-Agent: " + e + "\r\n", "G" + e + "T /d HTTP/1.1\r\nHost: orders\r\n",
		} {
			s.say(raw + "Connection: close\r\n\r\n")
		}
	}
	lab.Eventually(t, lab.Soon, "the denials are known", func() error {
		if out := s.h.Kith("why", "last"); !strings.Contains(out, "/d") && !strings.Contains(out, "/c") && !strings.Contains(out, "/b") {
			return fmt.Errorf("why last: %s", out)
		}
		return nil
	})
	lab.Eventually(t, lab.Soon, "the denials are on the screen", func() error {
		s.say("GET /\u2028forged HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")
		if out := watch.Output(); !strings.Contains(out, "/%E2%80%A8forged") {
			return fmt.Errorf("kith watch: %s", out)
		}
		return nil
	})
	for where, text := range map[string]string{
		"the proxy's log": proxy.Output(), "the agent's and server's log": dev.Output(), "kith why": s.h.Kith("why", "last"), "kith why -o json": s.h.Kith("why", "last", "-o", "json"),
		"kith watch": watch.Output(),
	} {
		if !utf8.ValidString(text) {
			t.Errorf("%s is no UTF-8: %q", where, text)
		}
		if i := strings.IndexFunc(text, func(r rune) bool {
			return r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)
		}); i >= 0 {
			t.Errorf("%s has %q", where, text[max(0, i-100):min(len(text), i+20)])
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "forged") {
				t.Errorf("%s has a line of a caller: %q", where, line)
			}
		}
	}
}
