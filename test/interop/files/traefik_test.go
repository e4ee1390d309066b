//go:build interop

package files

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// newTraefikSite is a host with the guide's Traefik, which scripts/traefik installs.
func newTraefikSite(t *testing.T) *site {
	t.Helper()
	install := exec.Command("../../../scripts/traefik")
	install.Stderr = os.Stderr
	out, err := install.Output()
	if err != nil {
		t.Fatalf("install Traefik: %v", err)
	}
	kith, err := lab.Binary()
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.Setenv("PATH=" + filepath.Dir(kith) + ":" + filepath.Dir(strings.TrimSpace(string(out))) + ":" + os.Getenv("PATH"))
	pairs := []string{"0.0.0.0", "127.0.0.1", "routes.yaml,", filepath.Join(s.Dir, "routes.yaml") + ","}
	for _, port := range []string{"8446", "9190"} {
		s.ports[port] = lab.Port(t)
	}
	for port, here := range s.ports {
		pairs = append(pairs, port, strconv.Itoa(here))
	}
	s.replaced = strings.NewReplacer(pairs...)
	s.WriteConfig(s.block("### Traefik"))
	s.write("`traefik.yaml`:", "traefik.yaml")
	s.write("`routes.yaml`:", "routes.yaml")
	return s
}

// A real Traefik asks on the port: the policy decides by the caller's certificate,
// whatever callers say in header fields; files that are renewed are taken over; and
// whoever else asks on the port is refused.
func TestTraefikAsksAndIsBelieved(t *testing.T) {
	s := newTraefikSite(t)
	s.app()
	s.Dev()
	for _, who := range []string{"web", "reporting"} {
		s.Kith("get", "svid", "--as", who, "--dir", filepath.Join(s.Dir, who))
	}
	commands := strings.Split(strings.TrimSpace(s.block("Traefik and its files, in two terminals:")), "\n")
	if len(commands) != 2 {
		t.Fatalf("the guide has %q", commands)
	}
	s.awaitFiles(s.start(commands[0]), "tls")
	s.start(commands[1])
	s.WaitPort(s.ports["8446"])
	s.Kith("allow", "web", "GET /v1/{**}", "on", "orders")
	caller := "caller=spiffe://dev.kith.local/dev/web"
	lab.Eventually(t, lab.Soon, "Traefik has its routes", func() error {
		if code, body := s.curl("8446", "/v1/x", "web"); code != "200" {
			return fmt.Errorf("got %s %s", code, body)
		}
		return nil
	})
	s.want("allowed", "8446", "/v1/x?a=b&uri=/admin", "web", "200", "app saw GET /v1/x?a=b&uri=/admin "+caller)
	s.want("a caller that says who it is", "8446", "/v1/x", "web", "200", caller+"\n", "-H", "Kith-Caller: spiffe://dev.kith.local/dev/admin")
	s.want("another caller", "8446", "/v1/x", "reporting", "403", "")
	s.want("another method", "8446", "/v1/x", "web", "403", "", "-X", "DELETE")
	s.want("another path", "8446", "/admin", "web", "403", "")
	s.want("forged words", "8446", "/admin", "web", "403", "", "-H", "X-Forwarded-Uri: /v1/x", "-H", "X-Forwarded-Method: GET")
	web, err := os.ReadFile(filepath.Join(s.Dir, "web", "svid.pem"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, _, _ := strings.Cut(strings.ReplaceAll(strings.TrimPrefix(string(web), "-----BEGIN CERTIFICATE-----"), "\n", ""), "-----END")
	s.want("another's certificate in a header", "8446", "/v1/x", "reporting", "403", "", "-H", "X-Forwarded-Tls-Client-Cert: "+leaf)
	for _, path := range []string{"/v1/%2e%2e/admin", "/v1/../admin", "/v1/%2fx", "/v1/a;b"} {
		if code, body := s.curl("8446", path, "web"); code == "200" {
			t.Errorf("%s: got 200 %s", path, body)
		}
	}
	if none := s.Try("curl", "-sk", "-w", "%{http_code}", fmt.Sprintf("https://127.0.0.1:%d/v1/x", s.ports["8446"])); strings.Contains(none.Stdout, "200") {
		t.Error("a caller without a certificate was let in")
	}
	// The question itself, as Traefik would put it, from a process that is not orders.
	r := s.Try("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "X-Forwarded-Method: GET", "-H", "X-Forwarded-Uri: /v1/x",
		"-H", "X-Forwarded-Tls-Client-Cert: "+leaf, fmt.Sprintf("http://127.0.0.1:%d/auth/orders?verify=SUCCESS&cert=forwarded&via=forwarded", s.ports["9190"]))
	if r.Stdout != "403" {
		t.Errorf("a process that is not orders asks for it: got %s, want 403", r.Stdout)
	}
	first := s.serial("8446")
	s.Kith("get", "svid", "--as", "web", "--dir", filepath.Join(s.Dir, "tls")) // other files, as at a renewal, and then the hook
	s.Do("touch", "routes.yaml")
	lab.Eventually(t, 2*lab.Soon, "the next certificate is shown", func() error {
		if now := s.serial("8446"); now == "" || now == first {
			return errors.New("still " + now)
		}
		return nil
	})
}
