//go:build hosts

// Package hosts joins two hosts, each in its own network namespace, as an
// operator would: a server and an agent on one, an agent on the other.
package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

const state = `services:
  orders: {identities: [/vms/orders], protocol: http, run_as: [root]}
  web:    {identities: [/vms/web], run_as: [root]}
rules:
  - {name: web-reads, from: web, to: orders, allow: ["GET /v1/{**}"]}
`

// domain is two joined hosts; the first also runs the server.
type domain struct {
	net            *lab.Network
	first, second  *lab.Host
	server         *lab.Process
	agent1, agent2 *lab.Process
}

func startDomain(t *testing.T) *domain {
	t.Helper()
	d := &domain{net: lab.NewNetwork(t)}
	var addr1 string
	d.first, addr1 = d.net.AddHost()
	var addr2 string
	d.second, addr2 = d.net.AddHost()
	d.first.WriteConfig(fmt.Sprintf("trust_domain: acme.example\nserver: {listen: \"0.0.0.0:8440\", address: \"%s:8440\"}\nagent: {advertise: \"%s\"}\n", addr1, addr1))
	d.second.WriteConfig(fmt.Sprintf("agent: {advertise: \"%s\"}\n", addr2))
	d.server = d.first.Start("kith", "server")
	d.first.WaitReady(d.server)
	d.agent1 = d.join(t, d.first, "vm-1")
	d.agent2 = d.join(t, d.second, "vm-2")
	d.first.Kith("apply", "-f", d.first.WriteFile("state.yaml", state))
	return d
}

// join types what `kith nodes add` printed, then starts the agent.
func (d *domain) join(t *testing.T, h *lab.Host, name string) *lab.Process {
	t.Helper()
	line := d.first.Kith("nodes", "add", name, "--class", "vms")
	var args []string
	for l := range strings.Lines(line) {
		if f := strings.Fields(l); len(f) >= 3 && f[0] == "kith" && f[1] == "join" {
			args = f[1:]
		}
	}
	if args == nil {
		t.Fatalf("kith nodes add printed no join line:\n%s", line)
	}
	h.Kith(args...)
	p := h.Start("kith", "agent")
	d.waitConnected(t, name)
	return p
}

func (d *domain) waitConnected(t *testing.T, name string) {
	t.Helper()
	lab.Eventually(t, lab.Soon, name+" is connected", func() error {
		out := d.first.Kith("nodes", "-o", "json")
		var nodes []struct {
			Name      string `json:"name"`
			Connected bool   `json:"connected"`
		}
		if err := json.Unmarshal([]byte(out), &nodes); err != nil {
			t.Fatalf("kith nodes -o json: %v\n%s", err, out)
		}
		for _, n := range nodes {
			if n.Name == name && n.Connected {
				return nil
			}
		}
		return errors.New(out)
	})
}

// get is what the second host's caller sees of the first host's service.
func (d *domain) get(path string) string {
	r := d.second.Try("kith", "run", "--as", "web", "--", "curl", "-s", "-m", "20", "-w", " %{http_code}", "http://orders"+path)
	return r.Stdout + r.Stderr
}

func (d *domain) serveOrders(t *testing.T) *lab.Process {
	t.Helper()
	d.first.WriteFile("www/v1/orders", "three orders\n")
	p := d.first.Start("kith", "run", "--as", "orders", "--expose", "8443=8080", "--", "python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", d.first.Dir+"/www", "8080")
	d.first.WaitPort(8080)
	d.wantAnswer(t, "a call across", "/v1/orders", "three orders\n 200")
	return p
}

func (d *domain) wantAnswer(t *testing.T, what, path, answer string) {
	t.Helper()
	lab.Eventually(t, lab.Soon, what, func() error {
		if got := d.get(path); !strings.Contains(got, answer) {
			return fmt.Errorf("got %q, want %q", got, answer)
		}
		return nil
	})
}

func TestACallAcrossTwoHosts(t *testing.T) {
	d := startDomain(t)
	d.serveOrders(t)
	if got := d.get("/secret"); !strings.Contains(got, "403") {
		t.Errorf("outside every rule: got %q, want 403", got)
	}
	out := d.first.Kith("deny", "web", "GET /v1/{**}", "on", "orders", "--name", "stop-web")
	if !strings.Contains(out, "1 of 1") {
		t.Errorf("kith deny says %q, want it effective on the one node that has orders", out)
	}
	if got := d.get("/v1/orders"); !strings.Contains(got, "403") {
		t.Errorf("after deny: got %q, want 403", got)
	}
	if why := d.first.Kith("why", "last"); !strings.Contains(why, "stop-web") {
		t.Errorf("kith why last does not name the rule:\n%s", why)
	}
	d.first.Kith("rules", "remove", "stop-web")
	d.wantAnswer(t, "after removing the deny", "/v1/orders", "200")
}

func TestCableCutAndRestored(t *testing.T) {
	d := startDomain(t)
	d.serveOrders(t)
	d.net.Cut(d.second)
	if got := d.get("/v1/orders"); strings.Contains(got, " 200") {
		t.Fatalf("with the cable out: got %q, want no answer", got)
	}
	// A change made meanwhile names the host that cannot have it.
	r := d.first.Try("kith", "deny", "web", "GET /v1/{**}", "on", "orders", "--name", "stop-web")
	t.Logf("deny with a host away: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	d.net.Mend(d.second)
	d.waitConnected(t, "vm-2")
	d.wantAnswer(t, "the change after the cable is back", "/v1/orders", "403")
	d.first.Kith("rules", "remove", "stop-web")
	d.wantAnswer(t, "a call after the cable is back", "/v1/orders", "200")
}

func TestSecondHostRestartedAndServerAway(t *testing.T) {
	d := startDomain(t)
	d.serveOrders(t)

	d.agent2.Kill()
	d.agent2 = d.second.Start("kith", "agent")
	d.waitConnected(t, "vm-2")
	d.wantAnswer(t, "after the second host restarted", "/v1/orders", "200")

	d.server.Kill()
	if got := d.get("/v1/orders"); !strings.Contains(got, "200") {
		t.Errorf("while the server is away: got %q, want 200", got)
	}
	d.agent2.Kill()
	d.agent2 = d.second.Start("kith", "agent")
	lab.Eventually(t, 10*time.Second, "a restarted agent serves without the server", func() error {
		if got := d.get("/v1/orders"); !strings.Contains(got, "200") {
			return errors.New(got)
		}
		return nil
	})
	d.server = d.first.Start("kith", "server")
	d.first.WaitReady(d.server)
	d.waitConnected(t, "vm-1")
	d.waitConnected(t, "vm-2")
	d.first.Kith("deny", "web", "GET /v1/{**}", "on", "orders", "--name", "stop-web")
	d.wantAnswer(t, "a change after the server is back", "/v1/orders", "403")
}

func TestJoinRefusesWrongPinAndUsedToken(t *testing.T) {
	d := startDomain(t)
	third, _ := d.net.AddHost()
	line := d.first.Kith("nodes", "add", "vm-3", "--class", "vms")
	var arg string
	for l := range strings.Lines(line) {
		if f := strings.Fields(l); len(f) >= 3 && f[1] == "join" {
			arg = f[2]
		}
	}
	parts := strings.Split(arg, "/")
	if len(parts) != 3 {
		t.Fatalf("join line argument %q: want address/pin/token", arg)
	}
	wrong := parts[0] + "/sha256-" + strings.Repeat("ab", 32) + "/" + parts[2]
	if r := third.Try("kith", "join", wrong); r.Code == 0 || !strings.Contains(r.Stderr, "pin") {
		t.Errorf("a wrong pin: exit %d, stderr %q; want a refusal that names the pin", r.Code, r.Stderr)
	}
	third.Kith("join", arg)
	fourth, _ := d.net.AddHost()
	r := fourth.Try("kith", "join", arg)
	if r.Code == 0 || !strings.Contains(r.Stderr, "kith nodes add") {
		t.Errorf("a used token: exit %d, stderr %q; want a refusal that says what to type", r.Code, r.Stderr)
	}
}
