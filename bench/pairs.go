package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// pairs are the ways to the backend, and what runs for them.
type pairs struct {
	targets []*target // kith, nginx, direct mTLS, plain
	inside  []*target // the SDK in the program itself, and plain Go
	stops   []func()
}

func (p *pairs) stop() {
	for i := len(p.stops) - 1; i >= 0; i-- {
		p.stops[i]()
	}
}

func get(host, target string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", target, host)
}

// startPairs starts a backend, Kith's proxies on a real server and agent, and
// nginx in the same place.
func startPairs(ctx context.Context, b *bench) (*pairs, error) {
	p := &pairs{}
	fail := func(err error) (*pairs, error) { p.stop(); return nil, err }
	dir, err := b.dir("pairs")
	if err != nil {
		return nil, err
	}
	if err := makeCerts(dir); err != nil {
		return nil, err
	}
	config, err := mutualTLS(dir)
	if err != nil {
		return nil, err
	}
	backend, err := startHelper(ctx, 0, "backend", dir)
	if err != nil {
		return nil, err
	}
	p.stops = append(p.stops, func() { _ = backend.stop() })
	var at addresses
	if err := backend.hear(&at); err != nil {
		return fail(err)
	}
	kith, err := p.startKith(ctx, b, at)
	if err != nil {
		return fail(err)
	}
	nginx, err := p.startNginx(ctx, dir, at)
	if err != nil {
		return fail(err)
	}
	p.targets = []*target{
		kith, nginx,
		{name: "direct", bytes: at.BytesTLS, http: at.HTTPTLS, request: get("localhost", "/v1/orders"), secure: config, pids: []int{backend.pid()}, ownToo: true},
		{name: "plain", bytes: at.Bytes, http: at.HTTP, request: get("localhost", "/v1/orders"), pids: []int{backend.pid()}, ownToo: true},
	}
	return p, nil
}

// startKith starts a callee's proxy for each protocol, and the caller's.
func (p *pairs) startKith(ctx context.Context, b *bench, at addresses) (*target, error) {
	d, err := startDomain(ctx, b, "data")
	if err != nil {
		return nil, err
	}
	p.stops = append(p.stops, d.stop)
	if _, err := d.apply(ctx, serviceObject("orders", "http", "root"), serviceObject("bytes", "tcp", "root"), serviceObject("web", "http", "root"), serviceObject("inside", "http", "root"),
		ruleObject("web-asks", "web", "inside", "GET /v1/{**}"), ruleObject("web-reads", "web", "orders", "GET /v1/{**}"), ruleObject("web-sends", "web", "bytes", "tcp")); err != nil {
		return nil, err
	}
	if err := d.startAgent(ctx); err != nil {
		return nil, err
	}
	if err := p.startInside(ctx, d); err != nil {
		return nil, err
	}
	var ports [4]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	local := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	t := &target{name: "kith", bytes: local(2), http: local(3), request: get("orders", "http://orders/v1/orders")}
	for _, args := range [][]string{
		{"proxy", "--as", "orders", "--expose", local(0) + "=" + at.HTTP},
		{"proxy", "--as", "bytes", "--expose", local(1) + "=" + at.Bytes},
		{"proxy", "--as", "web", "--outbound", local(3), "--upstream", "bytes=" + local(2)},
	} {
		proxy, err := start(ctx, d.env, d.dir, b.kith, append(args, "--log-level", "warn")...)
		if err != nil {
			return nil, err
		}
		p.stops = append(p.stops, proxy.stop)
		t.pids = append(t.pids, proxy.pid())
		if err := proxy.accepts("tcp", map[string]string{"orders": local(0), "bytes": local(1), "web": local(3)}[args[2]]); err != nil {
			return nil, err
		}
		if args[2] != "web" {
			continue
		}
		err = proxy.until(10*time.Second, func() error { // until the directory has come
			if _, err := t.openAll(1); err != nil {
				return err
			}
			_, err := t.connections(1)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

const nginxConf = `load_module %[1]s;
daemon off;
pid %[2]s/nginx.pid;
worker_processes %[9]d;
error_log %[2]s/nginx.log warn;
events { worker_connections 1024; }
http {
  access_log off;
  client_body_temp_path %[2]s/t1; proxy_temp_path %[2]s/t2; fastcgi_temp_path %[2]s/t3; uwsgi_temp_path %[2]s/t4; scgi_temp_path %[2]s/t5;
  keepalive_requests 100000000;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  upstream far { server 127.0.0.1:%[4]d; keepalive 64; keepalive_requests 100000000; }
  upstream app { server %[5]s; keepalive 64; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:%[3]d;
    location / { proxy_pass https://far; include %[2]s/client.conf; }
  }
  server {
    listen 127.0.0.1:%[4]d ssl;
    include %[2]s/server.conf;
    location / { proxy_pass http://app; }
  }
}
stream {
  server { listen 127.0.0.1:%[6]d; proxy_pass 127.0.0.1:%[7]d; proxy_ssl on; include %[2]s/client.conf; }
  server { listen 127.0.0.1:%[7]d ssl; include %[2]s/server.conf; proxy_pass %[8]s; }
}
`

const nginxClient = `proxy_ssl_certificate %[1]s/cert.pem; proxy_ssl_certificate_key %[1]s/key.pem;
proxy_ssl_trusted_certificate %[1]s/root.pem; proxy_ssl_verify on; proxy_ssl_name localhost;
proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse off; proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
`

const nginxServer = `ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem;
ssl_client_certificate %[1]s/root.pem; ssl_verify_client on;
ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
`

// startNginx starts one nginx that is both sides of a pair, for HTTP and for
// bytes: TLS 1.3 with client certificates, AES-128-GCM, no resumption.
func (p *pairs) startNginx(ctx context.Context, dir string, at addresses) (*target, error) {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		if binary, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return nil, fmt.Errorf("%w (apt-get install nginx-light libnginx-mod-stream)", err)
		}
	}
	module := "/usr/lib/nginx/modules/ngx_stream_module.so"
	if _, err := os.Stat(module); err != nil {
		return nil, fmt.Errorf("%w (apt-get install libnginx-mod-stream)", err)
	}
	var ports [4]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{
		"nginx.conf":  fmt.Sprintf(nginxConf, module, dir, ports[0], ports[1], at.HTTP, ports[2], ports[3], at.Bytes, runtime.NumCPU()),
		"client.conf": fmt.Sprintf(nginxClient, dir),
		"server.conf": fmt.Sprintf(nginxServer, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	nginx, err := start(ctx, os.Environ(), dir, binary, "-e", filepath.Join(dir, "nginx.log"), "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	if err != nil {
		return nil, err
	}
	p.stops = append(p.stops, nginx.stop)
	t := &target{
		name: "nginx", http: fmt.Sprintf("127.0.0.1:%d", ports[0]), bytes: fmt.Sprintf("127.0.0.1:%d", ports[2]),
		request: get("localhost", "/v1/orders"),
	}
	if err := nginx.accepts("tcp", t.bytes); err != nil {
		return nil, err
	}
	err = nginx.until(10*time.Second, func() error { // every worker, or its time would not count
		workers := childrenOf(nginx.pid())
		if t.pids = append(workers, nginx.pid()); len(workers) != runtime.NumCPU() {
			return fmt.Errorf("%d workers, not %d", len(workers), runtime.NumCPU())
		}
		return nil
	})
	return t, err
}
