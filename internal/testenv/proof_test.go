package testenv_test

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/testenv"
	"github.com/kith-id/kith/spiffe"
)

const ordersName = "https://orders.acme.example"

// balanced is the service orders behind a load balancer that ends TLS, which can
// change what it sends on.
type balanced struct {
	*testenv.Domain
	orders *kith.Workload
	lb     *httptest.Server

	mu     sync.Mutex
	tamper func(*http.Request) // guarded by mu
	seen   []string            // who called, as the handler knows; guarded by mu
}

func newBalanced(t *testing.T) *balanced {
	t.Helper()
	b := &balanced{Domain: testenv.Start(t)}
	b.orders = b.Workload(t, "orders")
	handler, err := b.orders.ProofHandler(http.HandlerFunc(b.serve), 8080, kith.ProofConfig{Audience: ordersName})
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := b.orders.Server(handler)
	go server.Serve(b.orders.ProofListener(inner, "h2", "http/1.1")) //nolint:errcheck // it ends by Close
	t.Cleanup(func() { server.Close() })
	back := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = "https", inner.Addr().String(), "renamed.example"
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.tamper != nil {
				b.tamper(pr.Out)
			}
		},
		Transport: &http.Transport{TLSClientConfig: spiffe.EndpointTLS(b.orders.Bundle, nil, b.orders.ID())},
	}
	b.lb = httptest.NewTLSServer(back)
	t.Cleanup(b.lb.Close)
	return b
}

func (b *balanced) serve(rw http.ResponseWriter, r *http.Request) {
	id, _ := kith.Identity(r.Context())
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.seen = append(b.seen, id.String()+" "+r.Method+" "+r.URL.Path+" "+string(body)+r.Header.Get("Workload-Identity-Token"))
	b.mu.Unlock()
	fmt.Fprint(rw, "served ", id)
}

func (b *balanced) allow(t *testing.T, rule string, actions ...string) {
	t.Helper()
	_, err := b.Server.Apply(t.Context(), api.Actor{Name: "test", Role: registry.RoleAdmin}, &pb.ApplyRequest{
		Owner: "cli", Declare: []string{"orders"},
		Put: []*pb.Object{{Kind: &pb.Object_Rule{Rule: &pb.Rule{Name: rule, From: []string{"orders"}, To: "orders", Allow: actions}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// call sends one request through the load balancer and returns status and body.
func (b *balanced) call(t *testing.T, transport http.RoundTripper, method, target, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.lb.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

func (b *balanced) tampered(change func(*http.Request)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tamper = change
}

// Rules 59 to 62: behind a load balancer the caller is who proves its WIT-SVID, and
// policy decides it as over mutual TLS; the token alone, a proof shown again and
// one that was changed on the way are nobody.
func TestRule59To62BehindALoadBalancer(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.allow(t, "web-orders", "POST /v1/orders", "GET /v1/orders")
	web := b.orders // a process is one workload: it calls itself
	for _, kind := range []kith.ProofKind{kith.ProofSignature, kith.ProofToken} {
		t.Run(string(kind), func(t *testing.T) {
			b.tampered(nil)
			signing, err := web.SigningTransport(b.lb.Client().Transport, ordersName, kind)
			if err != nil {
				t.Fatal(err)
			}
			if status, text := b.call(t, signing, "POST", "/v1/orders", "two"); status != 200 || text != "served "+web.ID().String() {
				t.Fatalf("allowed: %d %s", status, text)
			}
			if status, text := b.call(t, signing, "DELETE", "/v1/orders", ""); status != 403 || !strings.Contains(text, "decision") {
				t.Errorf("denied by policy: %d %s", status, text)
			}
			if status, _ := b.call(t, b.lb.Client().Transport, "GET", "/v1/orders", ""); status != 400 {
				t.Errorf("without anything: %d", status)
			}
			b.tampered(func(r *http.Request) { // rule 60: bearer
				r.Header.Del("Workload-Proof-Token")
				r.Header.Del("Signature")
				r.Header.Del("Signature-Input")
			})
			if status, _ := b.call(t, signing, "GET", "/v1/orders", ""); status != 400 {
				t.Errorf("the token as bearer: %d", status)
			}
			b.tampered(func(r *http.Request) { r.URL.Path = "/v1/other" })
			if status, _ := b.call(t, signing, "GET", "/v1/orders", ""); status != 400 {
				t.Errorf("another path: %d", status)
			}
			var kept http.Header
			b.tampered(func(r *http.Request) {
				if kept == nil {
					kept = r.Header.Clone()
				}
				r.Header = kept.Clone()
			})
			if status, _ := b.call(t, signing, "GET", "/v1/orders", ""); status != 200 {
				t.Errorf("the first time: %d", status)
			}
			if status, _ := b.call(t, signing, "GET", "/v1/orders", ""); status != 400 {
				t.Errorf("the same proof again: %d", status)
			}
		})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, call := range b.seen {
		if !strings.HasPrefix(call, web.ID().String()+" ") || strings.Contains(call, "eyJ") {
			t.Errorf("the handler saw %s", call)
		}
	}
	if len(b.seen) != 4 {
		t.Errorf("the handler saw %d calls: %v", len(b.seen), b.seen)
	}
}

// A signature binds what a proof token does not: body and method.
func TestSignatureBindsBodyAndMethod(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.allow(t, "web-orders", "GET,POST,PUT /{**}")
	signing, err := b.orders.SigningTransport(b.lb.Client().Transport, ordersName, kith.ProofSignature)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*http.Request){
		"body":   func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(strings.NewReader("six")), 3 },
		"method": func(r *http.Request) { r.Method = http.MethodPut },
		"query":  func(r *http.Request) { r.URL.RawQuery = "all=1" },
		"type":   func(r *http.Request) { r.Header.Set("Content-Type", "text/evil") },
		"user":   func(r *http.Request) { r.Header.Set("Authorization", "Bearer thief") },
	} {
		b.tampered(change)
		if status, text := b.call(t, signing, "POST", "/v1/orders", "two"); status != 400 {
			t.Errorf("%s changed: %d %s", name, status, text)
		}
	}
}

// Rule 62: a WIT-SVID is shown and taken over TLS only, and an audience must be
// configured.
func TestRule62SecureChannel(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	handler, err := b.orders.ProofHandler(http.HandlerFunc(b.serve), 0, kith.ProofConfig{Audience: ordersName})
	if err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(handler)
	defer plain.Close()
	res, err := http.Get(plain.URL) //nolint:noctx // a server of this test
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 400 {
		t.Errorf("without TLS: %d", res.StatusCode)
	}
	signing, err := b.orders.SigningTransport(nil, ordersName, kith.ProofToken)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(plain.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signing.RoundTrip(&http.Request{URL: u, Header: http.Header{}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("shown without TLS: %v", err)
	}
	for _, cfg := range []kith.ProofConfig{{}, {Audience: "x", Accept: []kith.ProofKind{"bearer"}}} {
		if _, err := b.orders.ProofHandler(http.NotFoundHandler(), 0, cfg); err == nil {
			t.Errorf("%+v is taken", cfg)
		}
	}
}

// Attack 67: without an authority that vouches for it no load balancer is spoken
// to: neither token nor request is sent.
func TestAttack67UnknownLoadBalancerGetsNothing(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	for _, kind := range []kith.ProofKind{kith.ProofSignature, kith.ProofToken} {
		signing, err := b.orders.SigningTransport(nil, ordersName, kind)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			req, err := http.NewRequestWithContext(t.Context(), "POST", b.lb.URL+"/v1/orders", strings.NewReader("two"))
			if err != nil {
				t.Fatal(err)
			}
			res, err := signing.RoundTrip(req)
			var unknown x509.UnknownAuthorityError
			if !errors.As(err, &unknown) {
				t.Errorf("%s: got %v, %v, want that the authority is unknown", kind, res, err)
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.seen) > 0 {
		t.Errorf("the service saw %v", b.seen)
	}
}

// Attack 53: a service may have several listeners behind one load balancer. A proof
// that one of them has seen is spent for the others of the process as well.
func TestAttack53AProofIsSpentOnEveryListener(t *testing.T) {
	t.Parallel()
	b := newBalanced(t)
	b.allow(t, "web-orders", "GET /v1/orders")
	handler, err := b.orders.ProofHandler(http.HandlerFunc(b.serve), 8081, kith.ProofConfig{Audience: ordersName})
	if err != nil {
		t.Fatal(err)
	}
	second, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := b.orders.Server(handler)
	go server.Serve(b.orders.ProofListener(second, "h2", "http/1.1")) //nolint:errcheck // it ends by Close
	t.Cleanup(func() { server.Close() })
	for _, kind := range []kith.ProofKind{kith.ProofSignature, kith.ProofToken} {
		signing, err := b.orders.SigningTransport(b.lb.Client().Transport, ordersName, kind)
		if err != nil {
			t.Fatal(err)
		}
		var kept http.Header
		b.tampered(func(r *http.Request) { kept = r.Header.Clone() })
		if status, text := b.call(t, signing, "GET", "/v1/orders", ""); status != 200 {
			t.Fatalf("%s: %d %s", kind, status, text)
		}
		b.tampered(func(r *http.Request) { r.URL.Host, r.Header = second.Addr().String(), kept.Clone() })
		if status, _ := b.call(t, signing, "GET", "/v1/orders", ""); status != 400 {
			t.Errorf("%s: the same proof at another listener: %d, want 400", kind, status)
		}
		b.tampered(func(r *http.Request) { r.URL.Host = second.Addr().String() })
		if status, _ := b.call(t, signing, "GET", "/v1/orders", ""); status != 200 {
			t.Errorf("%s: a new proof there: %d, want 200", kind, status)
		}
	}
}
