//go:build interop

package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// rotations is how often all certificates are renewed under load.
const rotations = 100

// state is the two services and the one rule of the load.
const state = `services:
  web: {identities: [/vms/web], protocol: http, run_as: [root]}
  orders: {identities: [/vms/orders], protocol: http, run_as: [root]}
rules:
  - {name: web-reads, from: web, to: orders, allow: ["GET /ok/{**}"]}
`

// load asks for a permitted path from several clients until stop, and keeps what
// was not answered 200.
type load struct {
	asked, failed int
	errors        []string
	stop          func()
}

func (m *mesh) load() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{}
	var mu sync.Mutex
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			client := &http.Client{Timeout: 20 * time.Second}
			for i := 0; ctx.Err() == nil; i++ {
				said := ""
				resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/ok/%d", m.ports["10000"], i))
				if err != nil {
					said = err.Error()
				} else {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						said = resp.Status
					}
				}
				mu.Lock()
				if l.asked++; said != "" {
					l.failed++
					l.errors = append(l.errors[:min(len(l.errors), 20)], said)
				}
				mu.Unlock()
			}
		})
	}
	l.stop = func() { cancel(); running.Wait() }
	return l
}

// handshakes is how many TLS handshakes the callee's Envoy has finished.
func (m *mesh) handshakes() (n int) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/stats?filter=listener.*ssl.handshake", m.ports["9901"]))
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	for line := range strings.Lines(string(text)) {
		_, count, _ := strings.Cut(line, ": ")
		one := 0
		_, _ = fmt.Sscan(count, &one)
		n += one
	}
	return n
}

// TestCertificatesRotateUnderLoad renews both Envoys' certificates a hundred
// times while requests go through them, each connection good for a few: none may
// fail.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	m := newMesh(t, lab.NewHost(t))
	m.configure(func(text string) string {
		if !strings.Contains(text, "node: {id: web,") {
			return text
		}
		text = strings.Replace(text, "/dev/orders", "/vms/orders", 1)
		return strings.Replace(text, "        explicit_http_config:",
			"        common_http_protocol_options: {max_requests_per_connection: 10}\n        explicit_http_config:", 1)
	})
	m.app()
	agent := m.Joined("dev.kith.local")
	m.Kith("apply", "-f", m.WriteFile("state.yaml", state))
	m.sidecar("orders", "9901")
	m.sidecar("web", "9902")
	m.want("before the load", "/ok/x", http.StatusOK)
	before := m.handshakes()
	l := m.load()
	seen := map[string]bool{m.serial("9901"): true, m.serial("9902"): true}
	for i := range rotations {
		agent.Signal(syscall.SIGHUP)
		for _, admin := range []string{"9901", "9902"} {
			lab.Eventually(t, lab.Soon, fmt.Sprintf("renewal %d of %s is in use", i+1, admin), func() error {
				agent.KeepRunning(t)
				serial := m.serial(admin)
				if serial == "" || seen[serial] {
					return errors.New("still " + serial)
				}
				seen[serial] = true
				return nil
			})
		}
	}
	lab.Eventually(t, lab.Soon, "a handshake for each rotation", func() error {
		if made := m.handshakes() - before; made < rotations {
			return fmt.Errorf("%d handshakes", made)
		}
		return nil
	})
	l.stop()
	made := m.handshakes() - before
	t.Logf("%d requests over %d handshakes during %d rotations of two Envoys: %d failed", l.asked, made, rotations, l.failed)
	if l.failed > 0 || l.asked < rotations || made < rotations || len(seen) < 2*rotations+2 {
		t.Errorf("got %d of %d requests failed, %d handshakes, %d certificates; want no failure, and at least %d, %d and %d\n%s",
			l.failed, l.asked, made, len(seen), rotations, rotations, 2*rotations+2, strings.Join(l.errors, "\n"))
	}
}
