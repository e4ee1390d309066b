//go:build parties

package parties

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// domain is one trust domain on one host: server, agent, and a port for bundles.
type domain struct {
	name string
	host *lab.Host
	fed  int
}

// startDomain starts kith server and kith agent with the state a domain begins
// with here: a service "orders" and a workload "web".
func startDomain(t *testing.T, name, extra string) *domain {
	t.Helper()
	d := &domain{name: name, host: lab.NewHost(t), fed: lab.Port(t)}
	d.host.WriteConfig(fmt.Sprintf(`trust_domain: %s
server:
  listen: "127.0.0.1:%d"
  metrics: ""
  federation: {spiffe_listen: "127.0.0.1:%d", allow: [127.0.0.0/8]%s}
agent: {advertise: "127.0.0.1", metrics: ""}
`, name, lab.Port(t), d.fed, extra))
	d.host.WaitReady(d.host.Start("kith", "server"))
	line := d.host.Kith("nodes", "add", "vm-1", "--class", "vms", "-o", "json")
	var added struct {
		Join string `json:"join"`
	}
	if err := json.Unmarshal([]byte(line), &added); err != nil {
		t.Fatalf("nodes add: %v\n%s", err, line)
	}
	d.host.Kith("join", added.Join)
	d.host.Start("kith", "agent")
	lab.Eventually(t, lab.Soon, "the agent of "+name, func() error {
		if r := d.host.Try("kith", "nodes", "-o", "json"); !strings.Contains(r.Stdout, `"connected": true`) {
			return fmt.Errorf("nodes: %s %s", r.Stdout, r.Stderr)
		}
		return nil
	})
	return d
}

// apply applies a state file.
func (d *domain) apply(yaml string) { d.host.Kith("apply", "-f", d.host.WriteFile("state.yaml", yaml)) }

// trusts makes d accept the SVIDs of other, as its operators would.
func (d *domain) trusts(other *domain) {
	file := d.host.WriteFile(other.name+".json", other.host.Kith("federate", "bundle"))
	d.host.Kith("federate", "add", other.name, "--url", fmt.Sprintf("https://127.0.0.1:%d/", other.fed), "--profile", "https_spiffe",
		"--endpoint-id", "spiffe://"+other.name+"/kith/federation", "--bundle", file)
}

// get calls the other side's orders as web.
func (d *domain) get(service string) string {
	r := d.host.Try("kith", "run", "--as", "web", "--", "curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", "http://"+service+"/v1")
	return r.Stdout
}

// serveOrders runs a program behind kith run and returns where it is exposed.
func (d *domain) serveOrders(t *testing.T) int {
	t.Helper()
	d.host.WriteFile("www/v1", "hello")
	exposed, port := lab.Port(t), lab.Port(t)
	d.host.Start("kith", "run", "--as", "orders", "--expose", fmt.Sprintf("127.0.0.1:%d=%d", exposed, port), "--",
		"python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", d.host.Dir+"/www", fmt.Sprint(port))
	d.host.WaitPort(port)
	d.host.WaitPort(exposed)
	return exposed
}

func answers(t *testing.T, what string, get func() string, want string) {
	t.Helper()
	lab.Eventually(t, lab.Soon, what, func() error {
		if got := get(); got != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

// stateOf is a domain whose orders lets the other's web in, and which knows the
// other's orders at an address.
func stateOf(other string, port int) string {
	return fmt.Sprintf(`services:
  orders: {identities: [/vms/orders], run_as: [root]}
  web:    {identities: [/vms/web], run_as: [root]}
  theirs: {identities: ["spiffe://%s/vms/orders"], endpoints: ["127.0.0.1:%d"]}
rules:
  - {name: theirs-read, from: "spiffe://%s/vms/web", to: orders, allow: ["GET /v1"]}
`, other, port, other)
}

// Two trust domains that trust each other: workloads of each call the other's
// service by rules that name them, and no longer once either side ends it.
func TestTwoTrustDomainsFederate(t *testing.T) {
	acme, beta := startDomain(t, "acme.example", ""), startDomain(t, "beta.example", "")
	acme.apply(stateOf("beta.example", 1))
	beta.apply(stateOf("acme.example", 1))
	acmePort, betaPort := acme.serveOrders(t), beta.serveOrders(t)
	acme.apply(stateOf("beta.example", betaPort))
	beta.apply(stateOf("acme.example", acmePort))
	if got := acme.get("theirs"); got != "502" {
		t.Errorf("before any trust: got %q, want 502", got)
	}
	acme.trusts(beta)
	beta.trusts(acme)
	answers(t, "acme calls beta", func() string { return acme.get("theirs") }, "200")
	answers(t, "beta calls acme", func() string { return beta.get("theirs") }, "200")
	if why := acme.host.Kith("why", "last"); !strings.Contains(why, "spiffe://beta.example/vms/web") {
		t.Errorf("kith why does not name the caller: %s", why)
	}
	// The own web is not the other's web.
	if got := acme.get("orders"); got != "403" {
		t.Errorf("acme's web at acme's orders: got %q, want 403", got)
	}
	beta.host.Kith("federate", "delete", "acme.example")
	answers(t, "beta trusts acme no more", func() string { return acme.get("theirs") }, "502")
}

// badEndpoint is the bundle endpoint of beta.example as somebody broke it.
type badEndpoint struct {
	url, plain string
	ca         string // PEM
	expired    atomic.Bool
	good, old  tls.Certificate
	answer     atomic.Pointer[http.HandlerFunc]
}

func startEndpoint(t *testing.T) *badEndpoint {
	t.Helper()
	e := &badEndpoint{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(until time.Duration) tls.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "endpoint"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
			NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(until), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		e.ca += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	}
	e.good, e.old = issue(24*time.Hour), issue(-time.Hour)
	handler := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { (*e.answer.Load())(rw, r) })
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		shown := e.good
		if e.expired.Load() {
			shown = e.old
		}
		return &tls.Config{Certificates: []tls.Certificate{shown}}, nil
	}}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	e.url, e.plain = secure.URL+"/", plain.URL+"/"
	return e
}

func (e *badEndpoint) gives(kind string, body []byte) {
	var handler http.HandlerFunc = func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", kind)
		_, _ = rw.Write(body)
	}
	e.answer.Store(&handler)
}

// withSequence is a bundle document with another sequence, and with its keys or none.
func withSequence(t *testing.T, document []byte, sequence int, keys bool) []byte {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(document, &fields); err != nil {
		t.Fatal(err)
	}
	fields["spiffe_sequence"] = sequence
	if !keys {
		fields["keys"] = []any{}
	}
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// refreshed is what kith federate refresh says of beta at acme.
func (d *domain) refreshed(other string) lab.Result {
	return d.host.Try("kith", "federate", "refresh", other)
}

// What an endpoint may do wrong: each is refused with a clear reason and the old
// bundle kept; and keys: [], which is accepted: trust ends at once, with an alarm.
func TestABrokenEndpointTakesNoTrustAway(t *testing.T) {
	e := startEndpoint(t)
	beta := startDomain(t, "beta.example", "")
	document := []byte(beta.host.Kith("federate", "bundle"))
	e.gives("application/json", withSequence(t, document, 7, true))
	ca := beta.host.WriteFile("ca.pem", e.ca)
	acme := startDomain(t, "acme.example", ", ca_file: "+ca)
	acme.apply(stateOf("beta.example", 1))
	port := acme.serveOrders(t)
	beta.apply(stateOf("acme.example", port))
	beta.trusts(acme)
	acme.host.Kith("federate", "add", "beta.example", "--url", e.url)
	call := func() string { return beta.get("theirs") }
	answers(t, "beta calls acme", call, "200")

	if r := acme.host.Try("kith", "federate", "add", "beta.example", "--url", e.url); r.Code != 4 || !strings.Contains(r.Stderr, "federation beta.example exists") {
		t.Errorf("the same trust domain twice: exit %d, %s", r.Code, r.Stderr)
	}
	redirect := func(to string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, to, http.StatusFound) }
	}
	for _, tc := range []struct {
		name   string
		breaks func()
		reason string
	}{
		{"expired certificate", func() { e.expired.Store(true) }, "certificate has expired"},
		{"sequence backwards", func() { e.gives("application/json", withSequence(t, document, 6, true)) }, "older bundle, with sequence 6; the one with 7 is kept"},
		{"sequence backwards, no keys", func() { e.gives("application/json", withSequence(t, document, 6, false)) }, "older bundle, with sequence 6"},
		{"redirect to http", func() { h := redirect(e.plain); e.answer.Store(&h) }, `scheme is "http", must be https`},
		{"redirect to metadata", func() { h := redirect("https://169.254.169.254/latest/"); e.answer.Store(&h) }, "address is refused"},
		{"100 MB", func() { e.gives("application/json", bytes.Repeat([]byte(" "), 100<<20)) }, "more than 262144 bytes"},
		{"HTML", func() { e.gives("text/html", []byte("<html>")) }, "web page"},
		{"HTML as JSON", func() { e.gives("application/json", []byte("<html>")) }, "no bundle"},
		{"404", func() { h := http.HandlerFunc(http.NotFound); e.answer.Store(&h) }, "status 404"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e.expired.Store(false)
			e.gives("application/json", withSequence(t, document, 7, true))
			if r := acme.refreshed("beta.example"); r.Code != 0 {
				t.Fatalf("the good bundle: exit %d, %s", r.Code, r.Stderr)
			}
			tc.breaks()
			r := acme.refreshed("beta.example")
			if r.Code == 0 || !strings.Contains(r.Stderr, tc.reason) {
				t.Errorf("refresh: exit %d, %q, want a failure with %q", r.Code, r.Stderr, tc.reason)
			}
			if list := acme.host.Kith("federate"); !strings.Contains(list, "stale") || !strings.Contains(list, " 7 ") {
				t.Errorf("federate list: %s, want the old bundle in force and said to be stale", list)
			}
			if status := acme.host.Kith("status"); !strings.Contains(status, "the one held is in force") {
				t.Errorf("status does not tell of it: %s", status)
			}
			if got := call(); got != "200" {
				t.Errorf("a call meanwhile: got %q, want 200", got)
			}
		})
	}

	e.expired.Store(false)
	e.gives("application/json", withSequence(t, document, 8, false))
	if r := acme.refreshed("beta.example"); r.Code != 0 || !strings.Contains(r.Stdout, "beta.example is revoked: sequence 8, 0 roots") {
		t.Errorf("keys: []: exit %d, %s%s, want it accepted", r.Code, r.Stdout, r.Stderr)
	}
	answers(t, "acme trusts nobody of beta", call, "502")
	if status := acme.host.Kith("status"); !strings.Contains(status, "beta.example has revoked all its keys (sequence 8): its SVIDs are refused") {
		t.Errorf("no alarm: %s", status)
	}
	e.gives("application/json", withSequence(t, document, 9, true))
	if r := acme.refreshed("beta.example"); r.Code != 0 {
		t.Errorf("newer keys: exit %d, %s", r.Code, r.Stderr)
	}
	answers(t, "trust is back", call, "200")
}

// snippets are the commands of a page of docs/, block by block.
func snippets(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, part := range strings.Split(string(text), "```sh\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		out = append(out, block)
	}
	return out
}

// TestFederationPageWordForWord types what docs/federation.md says; only the
// addresses are those of this host.
func TestFederationPageWordForWord(t *testing.T) {
	acme, beta := startDomain(t, "acme.example", ""), startDomain(t, "beta.example", "")
	acme.apply("services:\n  orders: {identities: [/vms/orders], run_as: [root]}\n")
	acme.host.WriteFile("beta.json", beta.host.Kith("federate", "bundle"))
	acme.host.FindKith()
	local := strings.NewReplacer("https://bundles.beta.example:8443/", fmt.Sprintf("https://127.0.0.1:%d/", beta.fed))
	expect := []string{"acme.json", "beta.example is trusted: sequence 2, 1 roots, 1 keys for tokens", "trusted", "created rule", "created service billing", "deleted federation beta.example", "its bundle could not be fetched"}
	blocks := snippets(t, "federation.md")
	if len(blocks) != len(expect) {
		t.Fatalf("the page has %d blocks of commands, this test knows what %d of them say", len(blocks), len(expect))
	}
	for i, block := range blocks {
		r := acme.host.Try("bash", "-c", local.Replace(block))
		if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr+block, expect[i]) {
			t.Errorf("%s\ngot exit %d\n%s%s\nwant %q", block, r.Code, r.Stdout, r.Stderr, expect[i])
		}
	}
}
