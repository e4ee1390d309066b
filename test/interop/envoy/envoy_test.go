//go:build interop

// Package envoy holds two real Envoys beside the built kith: certificates by
// SDS, decisions by ext_authz, configured word for word as docs/envoy.md says.
package envoy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// binary is a real Envoy, installed by scripts/envoy.
var binary = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("../../../scripts/envoy")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
})

// block is the first fenced block of the guide after a text.
func block(t *testing.T, after string) string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/envoy.md")
	if err != nil {
		t.Fatal(err)
	}
	text, err := lab.ParseGuide(page).Block(after)
	if err != nil {
		t.Fatalf("docs/envoy.md: %v", err)
	}
	return text
}

// mesh is a host with two Envoys on it, on ports and paths of its own.
type mesh struct {
	*lab.Host
	t        *testing.T
	envoy    string
	ports    map[string]int // of the guide -> here
	replaced *strings.Replacer
}

func newMesh(t *testing.T, h *lab.Host) *mesh {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatalf("install Envoy: %v", err)
	}
	kith, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	h.Setenv("PATH=" + filepath.Dir(kith) + ":" + filepath.Dir(bin) + ":" + os.Getenv("PATH"))
	m := &mesh{Host: h, t: t, envoy: bin, ports: make(map[string]int)}
	pairs := []string{"/run/kith/agent.sock", h.AgentSocket(), "0.0.0.0", "127.0.0.1"}
	for _, port := range []string{"8080", "8443", "9901", "9902", "10000"} {
		m.ports[port] = lab.Port(t)
		pairs = append(pairs, port, strconv.Itoa(m.ports[port]))
	}
	// Two meshes on one machine must not share Envoy's memory.
	pairs = append(pairs, "--base-id 1", fmt.Sprintf("--base-id %d", m.ports["9901"]), "--base-id 2", fmt.Sprintf("--base-id %d", m.ports["9902"]))
	m.replaced = strings.NewReplacer(pairs...)
	return m
}

// configure writes both configurations of the guide, changed by edit.
func (m *mesh) configure(edit func(string) string) {
	m.t.Helper()
	for _, name := range []string{"orders.yaml", "web.yaml"} {
		m.WriteFile(name, m.replaced.Replace(edit(block(m.t, "`"+name+"`,"))))
	}
}

func asItIs(text string) string { return text }

// sidecar starts an Envoy as a service and waits until it has its certificate.
func (m *mesh) sidecar(name, admin string) *lab.Process {
	m.t.Helper()
	p := m.Start("kith", "run", "--as", name, "--", "envoy", "--base-id", strconv.Itoa(m.ports[admin]), "--concurrency", "2", "-l", "warning", "-c", name+".yaml")
	m.settled(p, admin)
	return p
}

func (m *mesh) settled(p *lab.Process, admin string) {
	m.t.Helper()
	lab.Eventually(m.t, 2*lab.Soon, "Envoy has its certificate", func() error {
		p.KeepRunning(m.t)
		if m.serial(admin) == "" {
			return errors.New("no certificate")
		}
		return nil
	})
}

// serial is the certificate an Envoy uses now, as its admin port says.
func (m *mesh) serial(admin string) string {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/certs", m.ports[admin]))
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var said struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil {
		return ""
	}
	for _, c := range said.Certificates {
		if len(c.Chain) > 0 {
			return c.Chain[0].Serial
		}
	}
	return ""
}

// get asks orders through both Envoys.
func (m *mesh) get(path string) (code int, head http.Header, body string) {
	m.t.Helper()
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", m.ports["10000"], path))
	if err != nil {
		m.t.Fatalf("GET %s: %v", path, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(text)
}

func (m *mesh) want(what, path string, want int) {
	m.t.Helper()
	if code, head, body := m.get(path); code != want {
		m.t.Fatalf("%s: got %d %v %s, want %d", what, code, head, body, want)
	}
}

// app serves a path that says which headers it got.
func (m *mesh) app() {
	m.t.Helper()
	server := &http.Server{
		Addr: fmt.Sprintf("127.0.0.1:%d", m.ports["8080"]), ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "app saw %s %s xfcc=%s\n", r.Method, r.RequestURI, r.Header.Get("X-Forwarded-Client-Cert"))
		}),
	}
	go func() { _ = server.ListenAndServe() }()
	m.t.Cleanup(func() { _ = server.Close() })
	m.WaitPort(m.ports["8080"])
}

// TestGuideWordForWord types the guide's first minute into a shell.
func TestGuideWordForWord(t *testing.T) {
	m := newMesh(t, lab.NewHost(t))
	m.configure(asItIs)
	expect := []string{"", "", "", "", "403 Forbidden", "effective on 1 of 1 node", "200 OK", "allow_rule"}
	lines := strings.Split(strings.TrimSpace(m.replaced.Replace(block(t, "## Sixty seconds"))), "\n")
	if len(lines) != len(expect) {
		t.Fatalf("the guide has %d commands, this test knows what %d of them say", len(lines), len(expect))
	}
	for i, line := range lines {
		switch i {
		case 0:
			m.WaitReady(m.Start("bash", "-c", "exec "+line))
		case 1:
			m.Start("bash", "-c", "exec "+line)
			m.WaitPort(m.ports["8080"])
		case 2:
			m.settled(m.Start("bash", "-c", "exec "+line), "9901")
		case 3:
			m.settled(m.Start("bash", "-c", "exec "+line), "9902")
		default:
			r := m.Try("bash", "-c", line)
			if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, expect[i]) {
				t.Errorf("%s\ngot exit %d\n%s%s\nwant %q", line, r.Code, r.Stdout, r.Stderr, expect[i])
			}
		}
	}
}

// TestTwoEnvoysAskForEachRequest shows what docs/envoy.md says of decisions.
func TestTwoEnvoysAskForEachRequest(t *testing.T) {
	m := newMesh(t, lab.NewHost(t))
	// One of the two methods of SDS on each side.
	delta := strings.NewReplacer("api_type: GRPC", "api_type: DELTA_GRPC")
	m.configure(func(text string) string {
		if strings.Contains(text, "node: {id: web,") {
			return delta.Replace(text)
		}
		return text
	})
	m.app()
	m.Dev()
	orders := m.sidecar("orders", "9901")
	m.sidecar("web", "9902")

	code, head, body := m.get("/v1/orders")
	id := head.Get("Kith-Decision")
	if code != http.StatusForbidden || len(id) != 16 || !strings.Contains(body, "kith why "+id) {
		t.Fatalf("before any rule: got %d, decision %q, %s", code, id, body)
	}
	if why := m.Kith("why", id); !strings.Contains(why, "no_source") || !strings.Contains(why, "dev/web") || !strings.Contains(why, "kith allow") {
		t.Errorf("kith why %s: %s", id, why)
	}
	// An allow is in force when the command returns, and so is a denial.
	for i := range 10 {
		path := fmt.Sprintf("/v1/%d", i)
		m.want("before it is allowed", path, http.StatusForbidden)
		m.Kith("allow", "web", "GET "+path, "on", "orders")
		m.want("as soon as it is allowed", path, http.StatusOK)
		m.Kith("deny", "web", "GET "+path, "on", "orders")
		m.want("as soon as it is denied", path, http.StatusForbidden)
	}
	m.Kith("allow", "web", "GET /ok/{**}", "on", "orders")
	code, _, body = m.get("/ok/x?a=../b")
	if code != http.StatusOK || !strings.Contains(body, "app saw GET /ok/x?a=../b") || !strings.Contains(body, "URI=spiffe://dev.kith.local/dev/web") {
		t.Errorf("allowed: got %d %s", code, body)
	}
	for _, path := range []string{"/ok/%2e%2e/admin", "/ok//x", "/ok/%2fx", "/ok/a;b", "/ok/x%00"} {
		m.want("a path that is not normal", path, http.StatusBadRequest)
	}
	if why := m.Kith("why", "last"); !strings.Contains(why, "path_not_canonical") {
		t.Errorf("kith why last: %s", why)
	}
	for _, line := range []string{"reason=allow_rule rule=web-", "reason=no_source rule=- decision=", "reason=path_not_canonical"} {
		lab.Eventually(t, lab.Soon, "Envoy's access log has it", func() error { // it is written when there is enough, or time
			if !strings.Contains(orders.Output(), line) {
				return errors.New(line)
			}
			return nil
		})
	}
	// Rule 93: whoever loses the identity answers for nothing from then on.
	m.Kith("apply", "-f", m.WriteFile("nobody.yaml", "services:\n  orders: {identities: [/dev/somebody-else], protocol: http, run_as: [nobody]}\n"))
	m.want("after orders lost its identity", "/ok/x", http.StatusForbidden)
}
