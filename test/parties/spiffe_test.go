//go:build parties

package parties

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// identify gives this very process the identity web: an identity rule by uid.
func identify(t *testing.T, h *lab.Host) *workloadapi.X509Source {
	t.Helper()
	state := h.WriteFile("identity.yaml", fmt.Sprintf(`identities:
  - name: test-process
    nodes: [dev]
    id: "/{node.class}/web"
    require: 'workload.unix.uid == %d'
`, os.Getuid()))
	h.Kith("apply", "-f", state)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+h.AgentSocket())))
	if err != nil {
		t.Fatalf("X509Source: %v", err)
	}
	t.Cleanup(func() { _ = source.Close() })
	return source
}

// exposed is the address callers of a service dial.
func exposed(t *testing.T, h *lab.Host, service string) string {
	t.Helper()
	for _, field := range strings.FieldsFunc(h.Kith("services", service, "-o", "json"), func(r rune) bool { return strings.ContainsRune("\" ,[]{}\n", r) }) {
		if host, _, err := net.SplitHostPort(field); err == nil && host != "" && net.ParseIP(host) != nil {
			return field
		}
	}
	t.Fatalf("no endpoint of %s in: %s", service, h.Kith("services", service, "-o", "json"))
	return ""
}

func TestGoSPIFFECallsOurProxy(t *testing.T) {
	h := dev(t)
	port := lab.Port(t)
	h.WriteFile("www/hello.txt", "hello\n")
	serve(t, h, "files", port, "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", h.Dir+"/www", fmt.Sprint(port))
	source := identify(t, h)
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if got := svid.ID.String(); got != "spiffe://dev.kith.local/dev/web" {
		t.Fatalf("the identity of this process: got %s, want spiffe://dev.kith.local/dev/web", got)
	}
	peer := spiffeid.RequireFromString("spiffe://dev.kith.local/dev/files")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(peer))}, Timeout: 20 * time.Second}
	get := func() (int, string) {
		resp, err := client.Get("https://" + exposed(t, h, "files") + "/hello.txt")
		if err != nil {
			t.Fatalf("go-spiffe client: %v", err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if code, _ := get(); code != http.StatusForbidden {
		t.Errorf("before any rule: got %d, want 403", code)
	}
	h.Kith("allow", "web", "GET /hello.txt", "on", "files")
	if code, body := get(); code != http.StatusOK || body != "hello\n" {
		t.Errorf("after allow: got %d %q, want 200 hello", code, body)
	}
}

func TestOurProxyCallsGoSPIFFE(t *testing.T) {
	h := dev(t)
	source := identify(t, h)
	caller := spiffeid.RequireFromString("spiffe://dev.kith.local/dev/reporting")
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeID(caller)))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "go-spiffe saw %s\n", r.TLS.PeerCertificates[0].URIs[0])
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	h.Kith("services", "add", "foreign", "--identity", "/dev/web", "--endpoint", l.Addr().String())

	want(t, "a caller it knows", as(h, "reporting", "curl", "-s", "http://foreign/x"), 0, "go-spiffe saw spiffe://dev.kith.local/dev/reporting")
	r := as(h, "stranger", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://foreign/x")
	want(t, "a caller it refuses", r, 0, "502")

	// Whoever answers at the address with another identity is not the service.
	h.Kith("services", "add", "impostor", "--identity", "/dev/somebody", "--endpoint", l.Addr().String())
	want(t, "a wrong server identity", as(h, "reporting", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://impostor/x"), 0, "502")
}

func TestOpenSSLVerifiesAndReadsAnSVID(t *testing.T) {
	h := dev(t)
	out := filepath.Join(h.Dir, "svid")
	h.Kith("get", "svid", "--as", "web", "--dir", out)
	leaf, chain, roots := filepath.Join(out, "svid.pem"), filepath.Join(out, "chain.pem"), filepath.Join(out, "bundle.pem")
	if got := h.Do("openssl", "verify", "-CAfile", roots, "-untrusted", chain, leaf); !strings.Contains(got, ": OK") {
		t.Errorf("openssl verify: got %q, want OK", got)
	}
	text := h.Do("openssl", "x509", "-in", leaf, "-noout", "-text")
	for _, part := range []string{"URI:spiffe://dev.kith.local/dev/web", "Digital Signature", "TLS Web Server Authentication, TLS Web Client Authentication", "CA:FALSE"} {
		if !strings.Contains(text, part) {
			t.Errorf("openssl x509 -text lacks %q:\n%s", part, text)
		}
	}
}

func TestOpenSSLWithoutCertificateGetsAlert116(t *testing.T) {
	h := dev(t)
	port := lab.Port(t)
	h.WriteFile("www/hello.txt", "hello\n")
	serve(t, h, "files", port, "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", h.Dir+"/www", fmt.Sprint(port))
	addr := exposed(t, h, "files")
	r := h.Try("bash", "-c", "(echo 'GET / HTTP/1.0'; echo; sleep 2) | openssl s_client -connect "+addr+" -tls1_3 2>&1; true")
	if !strings.Contains(r.Stdout, "SSL alert number 116") {
		t.Errorf("s_client without a certificate: got\n%s\nwant alert 116 (certificate required)", r.Stdout)
	}
	if r := h.Try("bash", "-c", "openssl s_client -connect "+addr+" -tls1_2 </dev/null 2>&1; true"); !strings.Contains(r.Stdout, "alert protocol version") {
		t.Errorf("s_client with TLS 1.2: got\n%s\nwant a protocol version alert", r.Stdout)
	}
}
