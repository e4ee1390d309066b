//go:build hosts

package hosts

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

const day = 24 * time.Hour

// timed is a server, a node that serves orders and a node that calls it, each on
// a host of its own with a clock of its own, which can be set while all runs.
type timed struct {
	*domain
	hub    *lab.Host
	server *lab.Process
	orders *lab.Process
	outage time.Duration
}

// startTimed starts with the server's clock set off.
func startTimed(t *testing.T, outage, offset time.Duration) *timed {
	t.Helper()
	d := &timed{domain: &domain{net: lab.NewNetwork(t)}, outage: outage}
	var addr [3]string
	d.hub, addr[0] = d.net.AddHost()
	d.first, addr[1] = d.net.AddHost()
	d.second, addr[2] = d.net.AddHost()
	for _, h := range []*lab.Host{d.hub, d.first, d.second} {
		h.SetClock(0)
	}
	d.hub.SetClock(offset)
	d.hub.WriteConfig(fmt.Sprintf(`trust_domain: acme.example
server: {listen: "0.0.0.0:8440", address: "%[1]s:8440", admin_listen: "%[1]s:8444"}
survive: {control_plane_outage: %[2]s}
`, addr[0], outage))
	d.server = d.hub.Start("kith", "server")
	d.hub.WaitReady(d.server)
	d.hub.Kith("apply", "-f", d.hub.WriteFile("state.yaml", state))
	d.first.WriteConfig(fmt.Sprintf("log: {level: debug}\nagent: {advertise: \"%s\"}\n", addr[1]))
	d.second.WriteConfig(fmt.Sprintf("log: {level: debug}\nagent: {advertise: \"%s\"}\n", addr[2]))
	d.agent1 = d.joinTimed(t, d.first, "vm-1")
	d.agent2 = d.joinTimed(t, d.second, "vm-2")
	d.first.WriteFile("www/v1/orders", "three orders\n")
	d.orders = d.first.Start("kith", "run", "--log-level", "debug", "--as", "orders", "--expose", "8443=8080", "--",
		"python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", d.first.Dir+"/www", "8080")
	d.works(t, "the start")
	return d
}

// line is what kith nodes add, or kith ids admins add, prints to be typed.
func (d *timed) line(t *testing.T, args ...string) string {
	t.Helper()
	for l := range strings.Lines(d.hub.Kith(args...)) {
		if f := strings.Fields(l); len(f) >= 3 && f[1] == "join" {
			return f[len(f)-1]
		}
	}
	t.Fatalf("kith %s printed no join line", strings.Join(args, " "))
	return ""
}

func (d *timed) joinTimed(t *testing.T, h *lab.Host, name string) *lab.Process {
	t.Helper()
	h.Kith("join", d.line(t, "nodes", "add", name, "--class", "vms"))
	p := h.Start("kith", "agent")
	d.await(t, name)
	return p
}

// await waits until a node is connected.
func (d *timed) await(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		lab.Eventually(t, patient, name+" is connected", func() error {
			r := d.hub.Try("kith", "nodes", "-o", "json")
			var nodes []struct {
				Name      string `json:"name"`
				Connected bool   `json:"connected"`
			}
			if err := json.Unmarshal([]byte(r.Stdout), &nodes); err != nil {
				return fmt.Errorf("%w: %s%s", err, r.Stdout, r.Stderr)
			}
			for _, n := range nodes {
				if n.Name == name && n.Connected {
					return nil
				}
			}
			return errors.New(r.Stdout)
		})
	}
}

// patient is long enough for anything that recovers by itself.
const patient = 2 * time.Minute

// works waits until a change is in force and a call passes.
func (d *timed) works(t *testing.T, after string) {
	t.Helper()
	lab.Eventually(t, patient, "a call after "+after, func() error {
		if got := d.get("/v1/orders"); !strings.Contains(got, "three orders\n 200") {
			return fmt.Errorf("got %q", got)
		}
		return nil
	})
}

// renews asks an agent to renew all, and waits until it has.
func (d *timed) renews(t *testing.T, after string, p *lab.Process) {
	t.Helper()
	count := func() int { return strings.Count(d.orders.Output(), "identity received") }
	before := count()
	p.Signal(syscall.SIGHUP)
	lab.Eventually(t, patient, "a renewal after "+after, func() error {
		if n := count(); n <= before {
			return fmt.Errorf("%d identities received", n)
		}
		return nil
	})
}

// says waits until a program's output names the clock and about how far it is
// off.
func says(t *testing.T, what string, output func() string) {
	t.Helper()
	named := regexp.MustCompile(`(?s)clock.*([0-9]+h)?[0-9]+m[0-9]*s?|([0-9]+h)?[0-9]+m[0-9.]*s?.*clock`)
	lab.Eventually(t, patient, what+" names the clock", func() error {
		if text := output(); !named.MatchString(text) {
			return fmt.Errorf("%q", text)
		}
		return nil
	})
}

// state is all that an operator has put in or let in.
func (d *timed) state(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, kind := range []string{"services", "rules"} {
		all.WriteString(d.hub.Kith(kind, "-o", "json"))
	}
	var nodes, admins []struct{ Name, Class, Role string }
	for args, into := range map[string]any{"nodes": &nodes, "ids admins": &admins} {
		out := d.hub.Kith(append(strings.Fields(args), "-o", "json")...)
		if err := json.Unmarshal([]byte(out), into); err != nil {
			t.Fatalf("kith %s: %v: %s", args, err, out)
		}
	}
	return fmt.Sprint(all.String(), nodes, admins)
}

// checkIssuance reads the audit log: whatever was signed lives no longer than it
// should by the true time, each authority follows the one before, and time goes
// on from line to line.
func (d *timed) checkIssuance(t *testing.T, began time.Time) {
	t.Helper()
	f, err := os.Open(filepath.Join(d.hub.Dir, "state", "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const slack = time.Minute
	var last, authority time.Time
	issuing, all := 0, 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var l struct {
			Kind  string            `json:"kind"`
			Facts map[string]string `json:"facts"`
		}
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("audit log: %v: %s", err, lines.Text())
		}
		kind := l.Facts["certificate"]
		if l.Facts["not_after"] == "" || kind == "" || kind == "root" {
			continue
		}
		at, err1 := time.Parse(time.RFC3339Nano, l.Facts["journalled"])
		end, err2 := time.Parse(time.RFC3339, l.Facts["not_after"])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		all++
		life := 2 * d.outage
		if kind == "issuing" {
			issuing++
			if life *= 2; !authority.IsZero() && at.Before(authority.Add(-slack)) {
				t.Errorf("an authority of %s after one of %s", at, authority)
			}
			authority = at
		}
		if at.Before(last.Add(-slack)) || at.Before(began.Add(-slack)) || at.After(time.Now().Add(slack)) || end.After(time.Now().Add(life+slack)) || end.Sub(at) > life+time.Second {
			t.Errorf("signed at %s, until %s, after %s, in a test from %s to %s: %s", at, end, last, began, time.Now(), lines.Text())
		}
		last = at
	}
	if issuing == 0 || all < 6 {
		t.Errorf("%d authorities and %d certificates in the audit log: this has shown nothing", issuing, all)
	}
}
