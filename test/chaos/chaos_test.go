//go:build chaos

// Package chaos runs server, agent and proxies as processes under load, takes
// them away in every order, and holds Kith to what it promises: nothing
// acknowledged is lost, nothing forbidden is allowed, everything comes back.
package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// TestMain lets the test binary play the back end and the load.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv("CHAOS_ROLE") {
	case "":
		os.Exit(m.Run())
	case "app":
		err = app(os.Args[1])
	case "load":
		err = load(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func self(role string, args ...string) []string {
	return append([]string{"env", "CHAOS_ROLE=" + role, os.Args[0]}, args...)
}

// world is one host with a server, an agent and services behind kith run.
type world struct {
	*lab.Host
	server, agent *lab.Process
	listen        int
	metrics       int
}

func newWorld(t *testing.T) *world { return worldOn(t, lab.NewHost(t)) }

// worldOn starts server and agent on a host and joins them.
func worldOn(t *testing.T, h *lab.Host) *world {
	t.Helper()
	w := &world{Host: h, listen: lab.Port(t), metrics: lab.Port(t)}
	w.configure()
	w.server = w.Start("kith", "server")
	w.WaitReady(w.server)
	line := w.Kith("nodes", "add", "vm-1", "--class", "vms")
	for l := range strings.Lines(line) {
		if f := strings.Fields(l); len(f) >= 3 && f[0] == "kith" && f[1] == "join" {
			w.Kith(f[1:]...)
		}
	}
	w.agent = w.Start("kith", "agent")
	w.waitConnected(t)
	return w
}

func (w *world) configure() {
	w.WriteConfig(fmt.Sprintf(`trust_domain: chaos.example
server: {listen: "127.0.0.1:%[1]d", address: "127.0.0.1:%[1]d", metrics: "127.0.0.1:%[2]d"}
agent: {advertise: "127.0.0.1", metrics: "127.0.0.1:0"}
`, w.listen, w.metrics))
}

// metric sums a counter of the server over its labels.
func (w *world) metric(t *testing.T, name string) float64 {
	t.Helper()
	out := w.Do("curl", "-s", "-m", "10", fmt.Sprintf("http://127.0.0.1:%d/metrics", w.metrics))
	sum := 0.0
	for l := range strings.Lines(out) {
		if !strings.HasPrefix(l, name+"{") && !strings.HasPrefix(l, name+" ") {
			continue
		}
		fields := strings.Fields(l)
		v, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			t.Fatalf("metric %s: %q", name, l)
		}
		sum += v
	}
	return sum
}

func (w *world) waitConnected(t *testing.T) {
	t.Helper()
	lab.Eventually(t, lab.Soon, "the agent is connected", func() error {
		r := w.Try("kith", "nodes", "-o", "json")
		if !strings.Contains(strings.ReplaceAll(r.Stdout, " ", ""), `"connected":true`) {
			return fmt.Errorf("%s%s", r.Stdout, r.Stderr)
		}
		return nil
	})
}

// apply applies services named svc-0 … that root may run, and one caller.
func (w *world) apply(services int) {
	var b strings.Builder
	b.WriteString("services:\n  web: {identities: [/vms/web], run_as: [root]}\n")
	for i := range services {
		fmt.Fprintf(&b, "  svc-%d: {identities: [/vms/svc-%d], run_as: [root]}\n", i, i)
	}
	b.WriteString("rules:\n")
	for i := range services {
		fmt.Fprintf(&b, "  - {name: base-%d, from: web, to: svc-%d, allow: [\"GET /ok/{**}\"]}\n", i, i)
	}
	w.Kith("apply", "-f", w.WriteFile("state.yaml", b.String()))
}

// expose starts service svc-i behind kith run.
func (w *world) expose(t *testing.T, i int) *lab.Process {
	t.Helper()
	port, exposed := lab.Port(t), lab.Port(t)
	p := w.Start("kith", append([]string{"run", "--as", fmt.Sprintf("svc-%d", i), "--expose", fmt.Sprintf("127.0.0.1:%d=%d", exposed, port), "--"}, self("app", fmt.Sprint(port))...)...)
	w.WaitPort(port)
	w.WaitPort(exposed)
	return p
}

// tally is what a load run saw.
type tally struct {
	Requests  int `json:"requests"`
	Failed    int `json:"failed"`    // a permitted request that was not answered 200
	Forbidden int `json:"forbidden"` // a forbidden request that was answered 200
	LastOK    int `json:"last_ok"`   // permitted requests answered 200 since the last failure
	Errors    []string
}

func parseTally(t *testing.T, out string) tally {
	t.Helper()
	var got tally
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
		t.Fatalf("load printed no tally: %v\n%s", err, out)
	}
	return got
}
