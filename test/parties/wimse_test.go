//go:build parties

package parties

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// balancerConf is an application and, as honest and as dishonest load balancers,
// servers that end TLS and send on to the proxy: as they are, with another path,
// with another body, and without the proof.
const balancerConf = `
worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.err;
events { worker_connections 64; }
http {
  log_format proof '$http_workload_identity_token|$http_workload_proof_token|$http_signature_input|$http_signature|$http_content_digest|$http_content_type';
  access_log off;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  ssl_certificate %[1]s/lb.pem;
  ssl_certificate_key %[1]s/lb.key;
  proxy_ssl_protocols TLSv1.3;
  server {
    listen 127.0.0.1:%[2]d;
    location / { default_type text/plain; return 200 "app saw $request_method $request_uri xfcc=$http_x_forwarded_client_cert token=$http_workload_identity_token\n"; }
  }
  server { listen 127.0.0.1:%[4]d ssl; access_log %[1]s/proofs proof; location / { proxy_pass https://127.0.0.1:%[3]d; } }
  server { listen 127.0.0.1:%[5]d ssl; location / { rewrite ^ /v1/admin break; proxy_pass https://127.0.0.1:%[3]d; } }
  server { listen 127.0.0.1:%[6]d ssl; location / { proxy_set_body "tampered"; proxy_pass https://127.0.0.1:%[3]d; } }
  server { listen 127.0.0.1:%[7]d ssl; location / {
    proxy_set_header Signature ""; proxy_set_header Signature-Input ""; proxy_set_header Workload-Proof-Token "";
    proxy_pass https://127.0.0.1:%[3]d; } }
}
`

// Rules 59 to 62 with a real nginx that ends TLS: allowed and denied by policy as
// over mutual TLS; a proof shown again (attack 53), a path or a body changed on the
// way, and the token as a bearer token get nowhere.
func TestNginxEndsTLSBeforeTheProxy(t *testing.T) {
	h := lab.NewHost(t)
	h.Dev("--wit")
	app, behind := lab.Port(t), lab.Port(t)
	honest, path, body, bare := lab.Port(t), lab.Port(t), lab.Port(t), lab.Port(t)
	dir := h.Dir + "/nginx"
	conf := h.WriteFile("nginx/nginx.conf", fmt.Sprintf(balancerConf, dir, app, behind, honest, path, body, bare))
	h.Do("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
		"-subj", "/CN=lb", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", dir+"/lb.key", "-out", dir+"/lb.pem")
	h.Start("nginx", "-c", conf)
	h.Start("kith", "proxy", "--as", "orders", "--prove", fmt.Sprintf("%d=%d,audience=https://orders.acme.example", behind, app))
	for _, port := range []int{app, behind, honest} {
		h.WaitPort(port)
	}
	for _, proof := range []string{"signature", "wpt"} {
		call := func(port int, args ...string) lab.Result {
			via := fmt.Sprintf("orders=https://127.0.0.1:%d,audience=https://orders.acme.example,proof=%s,ca=%s/lb.pem", port, proof, dir)
			return h.Try("kith", append([]string{"run", "--as", "web", "--via", via, "--", "curl", "-s", "-w", "%{http_code}"}, args...)...)
		}
		post := []string{"-d", "two", "http://orders/v1/orders?x=1"}
		h.Kith("allow", "web", "POST /v1/orders", "on", "orders")
		lab.Eventually(t, 60*time.Second, proof+": allowed", func() error {
			if r := call(honest, post...); !strings.Contains(r.Stdout, "app saw POST /v1/orders?x=1 xfcc=By=spiffe://dev.kith.local/dev/orders;URI=spiffe://dev.kith.local/dev/web token=\n200") {
				return fmt.Errorf("got %s %s", r.Stdout, r.Stderr)
			}
			return nil
		})
		want(t, proof+": denied by policy", call(honest, "-X", "DELETE", "http://orders/v1/orders"), 0, "403")
		want(t, proof+": another path", call(path, post...), 0, "400")
		want(t, proof+": without the proof", call(bare, post...), 0, "400")
		if proof == "signature" {
			want(t, proof+": another body", call(body, post...), 0, "400")
		}
		replay(t, h, dir, honest)
	}
	want(t, "nobody", h.Try("curl", "-s", "--cacert", dir+"/lb.pem", "-w", "%{http_code}", fmt.Sprintf("https://127.0.0.1:%d/v1/orders", honest)), 0, "400")
}

// replay shows the first request that nginx has seen once more, header by header.
func replay(t *testing.T, h *lab.Host, dir string, port int) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(h.Do("cat", dir+"/proofs")), "\n")
	values := strings.Split(strings.ReplaceAll(lines[len(lines)-1], `\x22`, `"`), "|") // the last is a denied one: its proof is as good
	args := []string{"-s", "--cacert", dir + "/lb.pem", "-w", "%{http_code}", "-X", "DELETE"}
	for i, name := range []string{"Workload-Identity-Token", "Workload-Proof-Token", "Signature-Input", "Signature", "Content-Digest", "Content-Type"} {
		if values[i] != "-" {
			args = append(args, "-H", name+": "+values[i])
		}
	}
	want(t, "shown again", h.Try("curl", append(args, fmt.Sprintf("https://127.0.0.1:%d/v1/orders", port))...), 0, "400")
}
