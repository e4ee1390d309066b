//go:build interop

package files

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// site is a host with the files of the guide on it, on ports of its own.
type site struct {
	*lab.Host
	t        *testing.T
	guide    lab.Guide
	ports    map[string]int // of the guide -> here
	replaced *strings.Replacer
}

func newSite(t *testing.T) *site {
	t.Helper()
	page, err := os.ReadFile("../../../docs/files.md")
	if err != nil {
		t.Fatal(err)
	}
	kith, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	h := lab.NewHost(t)
	h.Setenv("PATH="+filepath.Dir(kith)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin", "HOME="+h.Dir) // Caddy keeps things at home
	s := &site{Host: h, t: t, guide: lab.ParseGuide(page), ports: make(map[string]int)}
	pairs := []string{"/run/kith/authz.sock", filepath.Join(h.Dir, "run", "authz.sock"), "0.0.0.0", "127.0.0.1"}
	for _, port := range []string{"8080", "8443", "8444", "8445"} {
		s.ports[port] = lab.Port(t)
		pairs = append(pairs, port, strconv.Itoa(s.ports[port]))
	}
	s.replaced = strings.NewReplacer(pairs...)
	return s
}

// write puts a file of the guide on the host.
func (s *site) write(after, name string) {
	s.t.Helper()
	s.WriteFile(name, s.block(after))
}

func (s *site) block(after string) string {
	s.t.Helper()
	text, err := s.guide.Block(after)
	if err != nil {
		s.t.Fatalf("docs/files.md: %v", err)
	}
	return s.replaced.Replace(text)
}

// app says what it was asked for, and by whom according to the proxy.
func (s *site) app() {
	s.t.Helper()
	server := &http.Server{
		Addr: fmt.Sprintf("127.0.0.1:%d", s.ports["8080"]), ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "app saw %s %s caller=%s\n", r.Method, r.RequestURI, strings.Join(r.Header.Values("Kith-Caller"), "|"))
		}),
	}
	go func() { _ = server.ListenAndServe() }()
	s.t.Cleanup(func() { _ = server.Close() })
	s.WaitPort(s.ports["8080"])
}

// start types a command into a shell.
func (s *site) start(command string) *lab.Process { return s.Start("bash", "-c", "exec "+command) }

// curl asks with web's certificate, or as whoever has the files.
func (s *site) curl(port, path, who string, more ...string) (code, body string) {
	s.t.Helper()
	args := append([]string{
		"-sSk", "-m", "20", "--path-as-is", "-w", "\n%{http_code}", "--cert", who + "/svid.pem", "--key", who + "/key.pem",
		fmt.Sprintf("https://127.0.0.1:%d%s", s.ports[port], path),
	}, more...)
	r := s.Try("curl", args...)
	i := strings.LastIndexByte(r.Stdout, '\n')
	return r.Stdout[i+1:], r.Stdout[:max(i, 0)] + r.Stderr
}

func (s *site) want(what, port, path, who, code, text string, more ...string) {
	s.t.Helper()
	if got, body := s.curl(port, path, who, more...); got != code || !strings.Contains(body, text) {
		s.t.Errorf("%s: got %s %s, want %s with %q", what, got, body, code, text)
	}
}

// TestGuideWordForWord types the guide's first minute into a shell.
func TestGuideWordForWord(t *testing.T) {
	s := newSite(t)
	s.write("`nginx.conf`:", "nginx.conf")
	expect := []string{"", "", "", "", "", " 403", "effective on 1 of 1 node", " 200", "allow_rule"}
	lines := strings.Split(strings.TrimSpace(s.block("## Sixty seconds with nginx")), "\n")
	if len(lines) != len(expect) {
		t.Fatalf("the guide has %d commands, this test knows what %d of them say", len(lines), len(expect))
	}
	for i, line := range lines {
		switch i {
		case 0:
			s.WaitReady(s.start(line))
		case 1:
			s.start(line)
			s.WaitPort(s.ports["8080"])
		case 2:
			s.awaitFiles(s.start(line), "tls")
		case 3:
			s.start(line)
			s.WaitPort(s.ports["8443"])
		default:
			r := s.Try("bash", "-c", line)
			if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, expect[i]) {
				t.Errorf("%s\ngot exit %d\n%s%s\nwant %q", line, r.Code, r.Stdout, r.Stderr, expect[i])
			}
		}
	}
	for line := range strings.Lines(s.block("## openssl")) {
		r := s.Try("bash", "-c", line)
		if out := r.Stdout + r.Stderr; r.Code != 0 || !strings.Contains(out, "OK") {
			t.Errorf("%s\ngot exit %d\n%s\nwant OK", line, r.Code, out)
		}
	}
}

func (s *site) awaitFiles(p *lab.Process, dir string) {
	s.t.Helper()
	lab.Eventually(s.t, lab.Soon, "the first files", func() error {
		p.KeepRunning(s.t)
		_, err := os.Stat(filepath.Join(s.Dir, dir, "identity.pem"))
		return err
	})
}

// TestProxiesAskAndAreBelieved shows what the guide says of decisions over HTTP,
// with nginx and Caddy.
func TestProxiesAskAndAreBelieved(t *testing.T) {
	s := newSite(t)
	s.write("`nginx.conf`:", "nginx.conf")
	s.write("`Caddyfile`,", "Caddyfile")
	s.app()
	s.Dev()
	for _, who := range []string{"orders", "web", "reporting"} {
		dir := who
		if who == "orders" {
			dir = "tls"
		}
		s.Kith("get", "svid", "--as", who, "--dir", filepath.Join(s.Dir, dir))
	}
	s.start("kith run --as orders -- nginx -p . -c nginx.conf")
	s.start("kith run --as orders -- caddy run --config Caddyfile")
	s.Kith("allow", "web", "GET /v1/{**}", "on", "orders")
	for _, port := range []string{"8443", "8444"} {
		s.WaitPort(s.ports[port])
		caller := "caller=spiffe://dev.kith.local/dev/web"
		s.want("allowed", port, "/v1/x?a=/../b&uri=/admin", "web", "200", "app saw GET /v1/x?a=/../b&uri=/admin "+caller)
		s.want("a caller that says who it is", port, "/v1/x", "web", "200", caller+"\n", "-H", "Kith-Caller: spiffe://dev.kith.local/dev/admin")
		s.want("another caller", port, "/v1/x", "reporting", "403", "")
		s.want("another method", port, "/v1/x", "web", "403", "", "-X", "DELETE")
		s.want("another path", port, "/admin", "web", "403", "")
		s.want("a word of the question in the path", port, "/admin&uri=/v1/x", "web", "403", "")
		s.want("forged words", port, "/admin", "web", "403", "",
			"-H", "X-Forwarded-Uri: /v1/x", "-H", "X-Forwarded-Method: GET", "-H", "X-Original-URI: /v1/x")
		for _, path := range []string{"/v1/%2e%2e/admin", "/v1//x", "/v1/%2fx", "/v1/a;b"} {
			s.want("a path that is not normal", port, path, "web", "403", "")
		}
		if why := s.Kith("why", "last"); !strings.Contains(why, "path_not_canonical") {
			t.Errorf("kith why last: %s", why)
		}
		none := s.Try("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", fmt.Sprintf("https://127.0.0.1:%d/v1/x", s.ports[port]))
		if none.Stdout == "200" {
			t.Error("a caller without a certificate was let in")
		}
	}
	// Who asks without holding the identity is refused, whatever it says.
	r := s.Try("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", filepath.Join(s.Dir, "run", "authz.sock"),
		"http://kith/auth/orders?verify=NONE&cert=&method=GET&uri=/v1/x")
	if r.Stdout != "403" {
		t.Errorf("a process that is not orders asks for it: got %s, want 403", r.Stdout)
	}
}

// TestJavaOpensTheStores types what the guide says of PKCS #12.
func TestJavaOpensTheStores(t *testing.T) {
	s := newSite(t)
	s.Dev()
	expect := []string{"", "identity.p12 trust.p12", "PrivateKeyEntry", "trustedCertEntry"}
	lines := strings.Split(strings.TrimSpace(s.block("`--pkcs12 FILE`")), "\n")
	if len(lines) != len(expect) {
		t.Fatalf("the guide has %d commands, this test knows what %d of them say", len(lines), len(expect))
	}
	for i, line := range lines {
		r := s.Try("bash", "-c", line)
		if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, expect[i]) {
			t.Errorf("%s\ngot exit %d\n%s%s\nwant %q", line, r.Code, r.Stdout, r.Stderr, expect[i])
		}
	}
}

// reloads is how often the files are renewed under load.
const reloads = 10

// TestProxiesReloadRenewedFilesUnderLoad renews the files of nginx and HAProxy
// while requests go through both: each hook works, and none fails.
func TestProxiesReloadRenewedFilesUnderLoad(t *testing.T) {
	s := newSite(t)
	s.write("`nginx.conf`:", "nginx.conf")
	s.write("`haproxy.cfg`:", "haproxy.cfg")
	s.app()
	agent := s.Joined("dev.kith.local")
	s.Kith("apply", "-f", s.WriteFile("state.yaml", `services:
  web: {identities: [/vms/web], protocol: http, run_as: [root]}
  orders: {identities: [/vms/orders], protocol: http, run_as: [root]}
rules:
  - {name: web-reads, from: web, to: orders, allow: ["GET /v1/{**}"]}
`))
	watch := "kith get svid --as orders --dir ./tls --watch --exec 'kill -HUP $(cat nginx.pid)' --signal USR2 --pid-file haproxy.pid"
	s.awaitFiles(s.start(watch), "tls")
	s.awaitFiles(s.start("kith get svid --as web --dir ./web --watch"), "web")
	s.start("kith run --as orders -- nginx -p . -c nginx.conf")
	s.start("haproxy -W -p haproxy.pid -f haproxy.cfg")
	for _, port := range []string{"8443", "8445"} {
		s.WaitPort(s.ports[port])
		s.want("before the load", port, "/v1/x", "web", "200", "app saw GET /v1/x")
	}
	seen := map[string]bool{"8443" + s.serial("8443"): true, "8445" + s.serial("8445"): true}
	done := s.load()
	for i := range reloads {
		agent.Signal(syscall.SIGHUP)
		for _, port := range []string{"8443", "8445"} {
			lab.Eventually(t, 2*lab.Soon, fmt.Sprintf("renewal %d is served on %s", i+1, port), func() error {
				now := s.serial(port)
				if now == "" || seen[port+now] {
					return errors.New("still " + now)
				}
				seen[port+now] = true
				return nil
			})
		}
	}
	asked, failed := done()
	t.Logf("%d requests during %d reloads of nginx and HAProxy: %d failed", asked, reloads, len(failed))
	if len(failed) > 0 || asked < reloads {
		t.Errorf("%d of %d requests failed, first: %s", len(failed), asked, strings.Join(failed[:min(3, len(failed))], "; "))
	}
}

// serial is the certificate that a proxy shows now.
func (s *site) serial(port string) string {
	r := s.Try("bash", "-c", fmt.Sprintf("openssl s_client -connect 127.0.0.1:%d -cert web/identity.pem -cert_chain web/chain.pem -key web/identity.pem </dev/null 2>/dev/null | openssl x509 -noout -serial 2>/dev/null", s.ports[port]))
	return strings.TrimSpace(r.Stdout)
}

// closedUnanswered is true of curl's report of a connection that was closed before
// anything was answered. A worker of nginx that ends at a reload closes a
// connection it has just accepted; every client tries such a request again.
func closedUnanswered(report string) bool {
	return strings.Contains(report, "curl: (16)") || strings.Contains(report, "curl: (52)") || strings.Contains(report, "curl: (56)")
}

// load asks both proxies in turn, each time over a new connection, until told.
func (s *site) load() func() (int, []string) {
	asked, failed := 0, []string(nil)
	halt := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			for _, port := range []string{"8443", "8445"} {
				select {
				case <-halt:
					return
				default:
				}
				// curl opens certificate and key one after the other: both below one identity.
				version, err := os.Readlink(filepath.Join(s.Dir, "web", "current"))
				if err != nil {
					failed = append(failed, err.Error())
					return
				}
				code, body := s.curl(port, "/v1/x", filepath.Join("web", version))
				if closedUnanswered(body) {
					code, body = s.curl(port, "/v1/x", filepath.Join("web", version))
				}
				if asked++; code != "200" {
					failed = append(failed, port+": "+code+" "+body)
				}
			}
		}
	})
	return func() (int, []string) {
		close(halt)
		running.Wait()
		return asked, failed
	}
}
