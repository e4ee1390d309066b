//go:build parties

package parties

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

const nginxConf = `
worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.err;
events { worker_connections 64; }
http {
  access_log %[1]s/nginx.log;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server {
    listen 127.0.0.1:%[2]d;
    location / { default_type text/plain; return 200 "nginx saw $request_method $request_uri xfcc=$http_x_forwarded_client_cert spoof=$http_x_spiffe_id\n"; }
  }
}
`

func TestNginxBehindRunCalledByCurl(t *testing.T) {
	h := dev(t)
	port := lab.Port(t)
	conf := h.WriteFile("nginx/nginx.conf", fmt.Sprintf(nginxConf, h.Dir+"/nginx", port))
	serve(t, h, "orders", port, "nginx", "-c", conf)

	status := []string{"-s", "-o", "/dev/null", "-w", "%{http_code} %{http_version}\n"}
	want(t, "before any rule", as(h, "web", append(append([]string{"curl"}, status...), "http://orders/v1/orders")...), 0, "403 1.1")
	h.Kith("allow", "web", "GET /v1/orders/{**}", "on", "orders")

	r := as(h, "web", "curl", "-s", "-H", "x-spiffe-id: spiffe://evil/x", "-H", "x-forwarded-client-cert: URI=spiffe://evil/x", "http://orders/v1/orders/7?a=b")
	want(t, "HTTP/1.1", r, 0, "nginx saw GET /v1/orders/7?a=b xfcc=By=spiffe://")
	if strings.Contains(r.Stdout, "evil") {
		t.Errorf("an identity header from the caller reached the app: %s", r.Stdout)
	}
	if !strings.Contains(r.Stdout, "URI=spiffe://dev.kith.local/dev/web") {
		t.Errorf("the verified identity did not reach the app: %s", r.Stdout)
	}
	want(t, "HTTP/2 through CONNECT",
		as(h, "web", append(append([]string{"curl", "--http2-prior-knowledge", "--proxytunnel"}, status...), "http://orders:80/v1/orders")...), 0, "200 2")
	want(t, "HTTP/2, another method",
		as(h, "web", append(append([]string{"curl", "--http2-prior-knowledge", "--proxytunnel", "-X", "DELETE"}, status...), "http://orders:80/v1/orders")...), 0, "403 2")
	want(t, "a path outside", as(h, "web", append(append([]string{"curl"}, status...), "http://orders/admin")...), 0, "403 1.1")
	want(t, "an ambiguous path", as(h, "web", append(append([]string{"curl", "--path-as-is"}, status...), "http://orders/v1/orders/%2e%2e%2f%2e%2e/admin")...), 0, "400 1.1")
	want(t, "another caller", as(h, "reporting", append(append([]string{"curl"}, status...), "http://orders/v1/orders")...), 0, "403 1.1")

	log := h.Do("cat", h.Dir+"/nginx/nginx.log")
	if strings.Contains(log, "admin") || strings.Contains(log, "DELETE") {
		t.Errorf("a denied request reached nginx:\n%s", log)
	}
	why := h.Kith("why", "last")
	for _, part := range []string{"orders", "reporting"} {
		if !strings.Contains(why, part) {
			t.Errorf("kith why last does not name %q:\n%s", part, why)
		}
	}
}

const urllibClient = `
import sys, urllib.request, urllib.error
req = urllib.request.Request(sys.argv[1], method=sys.argv[2], data=b"x=1" if sys.argv[2] == "POST" else None)
try:
    with urllib.request.urlopen(req, timeout=20) as r:
        print(r.status, r.read().decode().strip()[:200])
except urllib.error.HTTPError as e:
    print(e.code, e.headers.get("kith-decision", "no decision id"))
`

func TestPythonServerAndClient(t *testing.T) {
	h := dev(t)
	port := lab.Port(t)
	h.WriteFile("www/hello.txt", "hello from python\n")
	client := h.WriteFile("client.py", urllibClient)
	serve(t, h, "files", port, "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", h.Dir+"/www", fmt.Sprint(port))
	h.Kith("allow", "web", "GET /hello.txt", "on", "files")

	want(t, "GET", as(h, "web", "python3", client, "http://files/hello.txt", "GET"), 0, "200 hello from python")
	r := as(h, "web", "python3", client, "http://files/hello.txt", "POST")
	want(t, "POST", r, 0, "403 ")
	if strings.Contains(r.Stdout, "no decision id") {
		t.Errorf("the denial has no decision id: %s", r.Stdout)
	}
	h.Kith("deny", "web", "GET /hello.txt", "on", "files")
	want(t, "deny beats allow", as(h, "web", "python3", client, "http://files/hello.txt", "GET"), 0, "403 ")
}
