//go:build attacks

package attacks

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// request is one request as a back end saw it.
type request struct {
	Method string `json:"method"`
	Target string `json:"target"` // as sent
	Path   string `json:"path"`   // as the back end would look it up
	Host   string `json:"host"`
	XFCC   string `json:"xfcc"`
	Status string `json:"status"`
	head   http.Header
}

// backend is an application behind the proxy that tells what arrived.
type backend interface {
	name() string
	port() int
	seen() []request
}

// goBackend is Go's own server.
type goBackend struct {
	at  int
	mu  sync.Mutex
	all []request // guarded by mu
}

func newGoBackend(t *testing.T) *goBackend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &goBackend{at: l.Addr().(*net.TCPAddr).Port}
	b.serve(t, l)
	return b
}

// newUnixBackend listens on a socket alone.
func newUnixBackend(t *testing.T, path string) *goBackend {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	b := &goBackend{}
	b.serve(t, l)
	return b
}

func (b *goBackend) serve(t *testing.T, l net.Listener) {
	server := &http.Server{Handler: b, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
}

// ServeHTTP records the request and says its target.
func (b *goBackend) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	b.mu.Lock()
	b.all = append(b.all, request{
		Method: r.Method, Target: r.RequestURI, Path: r.URL.Path, Host: r.Host,
		XFCC: strings.Join(r.Header["X-Forwarded-Client-Cert"], "|"), Status: "200", head: r.Header.Clone(),
	})
	b.mu.Unlock()
	fmt.Fprintf(rw, "saw %s\n", r.RequestURI)
}

func (b *goBackend) name() string { return "go" }
func (b *goBackend) port() int    { return b.at }
func (b *goBackend) seen() []request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]request(nil), b.all...)
}

const nginxConf = `
worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.err;
events { worker_connections 512; }
http {
  log_format seen escape=json '{"method":"$request_method","target":"$request_uri","path":"$uri","host":"$http_host","xfcc":"$http_x_forwarded_client_cert","status":"$status"}';
  access_log %[1]s/seen.log seen;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen 127.0.0.1:%[2]d;
    location / { default_type text/plain; return 200 "saw $request_uri\n"; }
  }
}
`

// nginxBackend is nginx.
type nginxBackend struct {
	t   *testing.T
	at  int
	log string
}

func newNginxBackend(t *testing.T, h *lab.Host) *nginxBackend {
	t.Helper()
	port := lab.Port(t)
	dir := filepath.Join(h.Dir, "nginx")
	conf := h.WriteFile("nginx/nginx.conf", fmt.Sprintf(nginxConf, dir, port))
	h.Start("nginx", "-c", conf)
	h.WaitPort(port)
	return &nginxBackend{t: t, at: port, log: filepath.Join(dir, "seen.log")}
}

func (b *nginxBackend) name() string { return "nginx" }
func (b *nginxBackend) port() int    { return b.at }

// seen reads the log; a request that nginx could not read is in it as well.
func (b *nginxBackend) seen() []request {
	b.t.Helper()
	file, err := os.Open(b.log)
	if err != nil {
		b.t.Fatal(err)
	}
	defer file.Close()
	var all []request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			b.t.Fatalf("nginx's log: %v: %s", err, lines.Text())
		}
		all = append(all, r)
	}
	return all
}

// eachBackend runs a test before both back ends.
func eachBackend(t *testing.T, run func(t *testing.T, s *stage, b backend)) {
	t.Helper()
	t.Run("go", func(t *testing.T) {
		b := newGoBackend(t)
		run(t, newStage(t, b.port()), b)
	})
	t.Run("nginx", func(t *testing.T) {
		b := newNginxBackend(t, lab.NewHost(t))
		run(t, newStage(t, b.port()), b)
	})
}
