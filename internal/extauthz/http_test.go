package extauthz

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/policy"
)

// put asks over HTTP and returns the answer.
func put(t testing.TB, s *Service, target string, head http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r, err := http.NewRequestWithContext(WithCaller(t.Context(), attest.Peer{PID: 7}), http.MethodGet, "/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.ParseRequestURI(target); err != nil { // as net/http reads a request line
		t.Fatalf("%q: %v", target, err)
	}
	r.Header = head
	out := httptest.NewRecorder()
	s.ServeHTTP(out, r)
	return out
}

func TestProxiesAreAnsweredOverHTTP(t *testing.T) {
	d, s := newDesk(t, slice(service("orders", policy.HTTP)))
	cert := leaf(t, time.Now().Add(time.Hour), false, web)
	from := "verify=SUCCESS&cert=" + url.QueryEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	from = strings.ReplaceAll(from, "+", "%20") // nginx writes a blank so
	der := "verify=SUCCESS&cert=" + url.QueryEscape(base64.StdEncoding.EncodeToString(cert.Raw))
	forwarded := http.Header{forwardedMethod: {"GET"}, forwardedTarget: {"/v1/x?y"}}
	leafText := base64.StdEncoding.EncodeToString(cert.Raw)
	traefik := func(chain ...string) http.Header {
		head := forwarded.Clone()
		head.Set(forwardedCert, strings.Join(chain, ","))
		return head
	}
	twice := func(head http.Header) http.Header {
		head.Add(forwardedCert, head.Get(forwardedCert))
		return head
	}
	for _, c := range []struct {
		what, target string
		head         http.Header
		code         int
	}{
		{"by the rule", "/auth?" + from + "&method=GET&uri=/v1/x?a=b&method=DELETE&uri=/y", nil, 200},
		{"a service by name", "/auth/orders?" + from + "&method=GET&uri=/v1/x", nil, 200},
		{"DER", "/auth?" + der + "&method=GET&uri=/v1/x", nil, 200},
		{"forward_auth", "/auth?" + der + "&via=forwarded", forwarded, 200},
		{"Traefik", "/auth/orders?verify=SUCCESS&cert=forwarded&via=forwarded", traefik(leafText, leafText), 200},
		{"Traefik, and the client's word beside it", "/auth?verify=SUCCESS&cert=forwarded&via=forwarded", twice(traefik(leafText)), 403},
		{"Traefik without a certificate", "/auth?verify=SUCCESS&cert=forwarded&via=forwarded", forwarded, 403},
		{"Traefik, nothing verified", "/auth?verify=NONE&cert=forwarded&via=forwarded", traefik(leafText), 403},
		{"a forwarded certificate where the proxy tells the request", "/auth?verify=SUCCESS&cert=forwarded&method=GET&uri=/v1/x", traefik(leafText), 403},
		{"a forwarded certificate that nobody asked for", "/auth?verify=NONE&cert=&via=forwarded", traefik(leafText), 403},
		{"another service", "/auth/billing?" + from + "&method=GET&uri=/v1/x", nil, 403},
		{"another method", "/auth?" + from + "&method=POST&uri=/v1/x", nil, 403},
		{"another path", "/auth?" + from + "&method=GET&uri=/admin", nil, 403},
		{"a path that is not normal", "/auth?" + from + "&method=GET&uri=/v1/../admin", nil, 403},
		{"a second target in the path", "/auth?" + from + "&method=GET&uri=/admin&uri=/v1/x", nil, 403},
		{"nobody", "/auth?verify=NONE&cert=&method=GET&uri=/v1/x", nil, 403},
		{"a certificate that was not verified", "/auth?" + strings.Replace(from, "SUCCESS", "FAILED:expired", 1) + "&method=GET&uri=/v1/x", nil, 403},
		{"a certificate beside NONE", "/auth?" + strings.Replace(from, "SUCCESS", "NONE", 1) + "&method=GET&uri=/v1/x", nil, 403},
		{"no word on the certificate", "/auth?" + strings.TrimPrefix(from, "verify=SUCCESS&") + "&method=GET&uri=/v1/x", nil, 403},
		{"no certificate", "/auth?verify=SUCCESS&cert=&method=GET&uri=/v1/x", nil, 403},
		{"words twice", "/auth?" + from + "&verify=SUCCESS&method=GET&uri=/v1/x", nil, 403},
		{"an unknown word", "/auth?" + from + "&as=admin&method=GET&uri=/v1/x", nil, 403},
		{"no method", "/auth?" + from + "&uri=/v1/x", nil, 403},
		{"no target", "/auth?" + from + "&method=GET", nil, 403},
		{"the caller's word where the proxy's is wanted", "/auth?" + from, forwarded, 403},
		{"a method that brings a word", "/auth?" + from + "&method=GET&via=forwarded&uri=/admin", forwarded, 403},
		{"a method that brings headers", "/auth?" + from + "&method=GET&headers=all&headers=all&uri=/v1/x", nil, 403},
		{
			"two words where one is wanted", "/auth?" + der + "&via=forwarded",
			http.Header{forwardedMethod: {"GET"}, forwardedTarget: {"/v1/x", "/admin"}},
			403,
		},
		{"an identity in a header", "/auth?verify=NONE&cert=&method=GET&uri=/v1/x", http.Header{"X-Client-Cert": {escaped(cert)}}, 403},
		{"elsewhere", "/v1/x", nil, 404},
		{"below a service", "/auth/orders/x?" + from + "&method=GET&uri=/v1/x", nil, 404},
	} {
		out := put(t, s, c.target, c.head)
		if out.Code != c.code {
			t.Errorf("%s: got %d %s, want %d", c.what, out.Code, out.Body, c.code)
		}
		switch {
		case c.code == 200 && out.Header().Get(CallerHeader) != web:
			t.Errorf("%s: %s is %q, want %s", c.what, CallerHeader, out.Header().Get(CallerHeader), web)
		case c.code == 403 && (out.Header().Get(DecisionHeader) == "" || out.Header().Get(CallerHeader) != ""):
			t.Errorf("%s: got the header %v", c.what, out.Header())
		}
	}
	if got := d.kept[0]; got.GetPath() != "/v1/x" || got.GetFrom() != web {
		t.Errorf("reported: %v", got)
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/auth?"+from+"&method=GET&uri=/v1/x", http.NoBody)
	out := httptest.NewRecorder()
	if s.ServeHTTP(out, r); out.Code != 403 {
		t.Errorf("a caller nobody knows: got %d, want 403", out.Code)
	}
}

// With two domains' roots in one file, each could sign names of the other.
func TestProxiesThatCannotTellTrustDomainsApartSpeakForTheirOwn(t *testing.T) {
	sl := slice(service("orders", policy.HTTP))
	foreign := "spiffe://other.example/vms/web"
	sl.Rules = append(sl.Rules, rule("foreign", foreign, "orders", "GET /v1/{**}"))
	_, s := newDesk(t, sl)
	from := "verify=SUCCESS&cert=" + escaped(leaf(t, time.Now().Add(time.Hour), false, foreign))
	if out := put(t, s, "/auth?"+from+"&method=GET&uri=/v1/x", nil); out.Code != 403 {
		t.Errorf("a peer of another trust domain: got %d, want 403", out.Code)
	}
	in := get(foreign, "/v1/x") // Envoy can: its validator keeps them apart
	if out := ask(t, s, in); said(out, "reason") != "allow_rule" {
		t.Errorf("the same through Envoy: got %s, want allow_rule", said(out, "reason"))
	}
}

// Whatever the request line holds, the answer is yes only for the rule's caller.
func FuzzQuestions(f *testing.F) {
	f.Add("/auth/orders?verify=SUCCESS&cert=-----BEGIN%20X&method=GET&uri=/v1/x")
	f.Add("/auth?via=forwarded&headers=all&verify=NONE&cert=")
	_, s := newDesk(f, slice(service("orders", policy.HTTP)))
	f.Fuzz(func(t *testing.T, target string) {
		if at, err := url.ParseRequestURI(target); err != nil || !strings.HasPrefix(at.Path, "/auth") {
			return
		}
		out := put(t, s, target, http.Header{forwardedMethod: {"GET"}, forwardedTarget: {"/v1/x"}})
		if out.Code != 403 && out.Code != 404 {
			t.Errorf("%q: got %d", target, out.Code)
		}
	})
}
