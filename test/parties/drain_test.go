//go:build parties

package parties

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// replica is a kith proxy in front of an application.
func replica(t *testing.T, h *lab.Host, app string) (p *lab.Process, at string) {
	t.Helper()
	at = fmt.Sprintf("127.0.0.1:%d", lab.Port(t))
	p = h.Start("kith", "proxy", "--as", "orders", "--expose", at+"="+app)
	lab.Eventually(t, lab.Soon, at+" is registered", func() error {
		if out := h.Kith("services", "-o", "json"); !strings.Contains(out, at) {
			return fmt.Errorf("services: %s\nproxy: %s", out, p.Output())
		}
		return nil
	})
	return p, at
}

// SIGTERM loses nothing: callers go elsewhere, what is under way is answered, the
// proxy ends with success. New ones take over, again and again, under load of all
// kinds of requests.
func TestProxyDrainsOnSIGTERM(t *testing.T) {
	slow := make(chan struct{}, 1)
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/slow" {
			select {
			case slow <- struct{}{}:
			default:
			}
			<-time.After(time.Second)
		}
		fmt.Fprintf(rw, "%s %s %d", r.Method, r.URL.Path, n)
	})}
	go func() { _ = server.Serve(app) }()
	defer server.Close()

	h := dev(t)
	first, _ := replica(t, h, app.Addr().String())
	local := lab.Port(t)
	h.Start("kith", "proxy", "--as", "web", "--outbound", fmt.Sprintf("127.0.0.1:%d", local))
	h.WaitPort(local)
	h.Kith("allow", "web", "GET,POST /{**}", "on", "orders")
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", local)}), MaxIdleConnsPerHost: 8}
	client := &http.Client{Transport: transport, Timeout: lab.Soon}
	defer transport.CloseIdleConnections()
	ask := func(method, path, body string) error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://orders"+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		if want := fmt.Sprintf("%s %s %d", method, path, len(body)); err != nil || string(got) != want {
			return fmt.Errorf("got %d %q, %v, want %q", res.StatusCode, got, err, want)
		}
		return nil
	}
	lab.Eventually(t, lab.Soon, "the first answer", func() error { return ask("GET", "/first", "") })

	// A POST that meets a connection which is just being closed cannot be sent
	// again by anybody but its program (RFC 9110 9.2.2): rare, and said so.
	var asked, met atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				method, path, body := "GET", "/x", ""
				switch {
				case i == 0:
					path = "/slow"
				case i == 1:
					method, body = "POST", strings.Repeat("y", 1+n*7919%100_000)
				}
				switch err := ask(method, path, body); {
				case err == nil:
				case method == "POST" && strings.Contains(err.Error(), "502 \"kith: the other side has closed the connection") && met.Add(1) <= 3:
				default:
					t.Errorf("%s %s: %v", method, path, err)
				}
				asked.Add(1)
			}
		})
	}
	for round := range 3 {
		next, _ := replica(t, h, app.Addr().String())
		<-slow // one is under way for a while
		first.Signal(syscall.SIGTERM)
		select {
		case <-first.Done():
		case <-time.After(lab.Soon):
			t.Fatalf("round %d: the proxy has not ended: %s", round, first.Output())
		}
		if code := first.ExitCode(); code != 0 {
			t.Errorf("round %d: the proxy ended with %d: %s", round, code, first.Output())
		}
		first = next
	}
	close(stop)
	load.Wait()
	t.Logf("%d requests over three restarts, %d POSTs met a closing connection", asked.Load(), met.Load())
}
