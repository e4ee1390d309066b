//go:build chaos

package chaos

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-id/kith/test/lab"
)

// storeChild is the pid of the server's store member.
func (w *world) storeChild(t *testing.T) int {
	t.Helper()
	var pid int
	lab.Eventually(t, lab.Soon, "the server has a store child", func() error {
		r := w.Try("pgrep", "-P", strconv.Itoa(w.server.PID()), "-f", "store-member")
		var err error
		pid, err = strconv.Atoi(strings.TrimSpace(r.Stdout))
		return err
	})
	return pid
}

// ruleNames is what the server says it holds.
func (w *world) ruleNames(t *testing.T) string {
	t.Helper()
	var out string
	lab.Eventually(t, lab.Soon, "the server lists its rules", func() error {
		r := w.Try("kith", "rules", "-o", "json")
		if r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		out = r.Stdout
		return nil
	})
	return out
}

// TestKillNineTenTimesInAnyOrder kills server, store child, agent and proxy ten
// times each in random order while rules change and requests run.
func TestKillNineTenTimesInAnyOrder(t *testing.T) {
	seed := uint64(os.Getpid())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	w.apply(2)
	callee := [2]*lab.Process{w.expose(t, 0), w.expose(t, 1)}
	loadRun := w.Start("kith", append([]string{"run", "--as", "web", "--"}, self("load", "2", "50", "15m")...)...)
	loadRun.KeepRunning(t)

	var acknowledged []string
	change := func(i int) {
		name := fmt.Sprintf("chaos-%d", i)
		r := w.Try("kith", "allow", "web", fmt.Sprintf("GET /c/%d", i), "on", "svc-0", "--name", name)
		if r.Code == 0 {
			acknowledged = append(acknowledged, name)
		}
	}
	for round := range 10 {
		for _, victim := range random.Perm(4) {
			change(round*4 + victim)
			switch victim {
			case 0:
				w.server.Kill()
				w.server = w.Start("kith", "server")
			case 1:
				_ = syscall.Kill(w.storeChild(t), syscall.SIGKILL)
			case 2:
				w.agent.Kill()
				w.agent = w.Start("kith", "agent")
			case 3:
				callee[0].KillGroup()
				callee[0] = w.expose(t, 0)
			}
		}
		w.supervise(t)
		w.waitConnected(t)
		w.settled(t)
		rules := w.ruleNames(t)
		for _, name := range acknowledged {
			if !strings.Contains(rules, `"`+name+`"`) {
				t.Fatalf("round %d: acknowledged rule %s is lost", round, name)
			}
		}
	}
	loadRun.Signal(syscall.SIGTERM)
	<-loadRun.Done()
	got := parseTally(t, loadRun.Output())
	t.Logf("10 rounds of 4 kills: %d changes acknowledged, %d requests, %d failed while something was dead", len(acknowledged), got.Requests, got.Failed)
	if got.Forbidden != 0 {
		t.Errorf("%d forbidden requests were answered 200", got.Forbidden)
	}
	if len(acknowledged) < 10 {
		t.Errorf("only %d changes were acknowledged in 40 tries", len(acknowledged))
	}
	if got.LastOK == 0 {
		t.Errorf("no permitted request succeeded after the last kill: %v", got.Errors)
	}
}

// supervise waits for the server as systemd does: one that ended is started again.
func (w *world) supervise(t *testing.T) {
	t.Helper()
	lab.Eventually(t, lab.Soon, "the server answers again", func() error {
		if w.server.Exited() {
			t.Logf("the server ended and is started again: %s", w.server.Output())
			w.server = w.Start("kith", "server")
		}
		if w.agent.Exited() {
			t.Logf("the agent ended and is started again: %s", w.agent.Output())
			w.agent = w.Start("kith", "agent")
		}
		if r := w.Try("kith", "nodes"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
}

// settled waits until both services answer a permitted call and refuse the other.
func (w *world) settled(t *testing.T) {
	t.Helper()
	for i := range 2 {
		lab.Eventually(t, lab.Soon, "a permitted call succeeds again", func() error {
			return w.call(i, "/ok/x", "200")
		})
		lab.Eventually(t, lab.Soon, "a forbidden call is denied", func() error {
			if w.call(i, "/no", "200") == nil {
				t.Fatalf("a forbidden call to svc-%d was allowed", i)
			}
			return w.call(i, "/no", "403")
		})
	}
}

func (w *world) call(service int, path, code string) error {
	r := w.Try("kith", "run", "--as", "web", "--", "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", fmt.Sprintf("http://svc-%d%s", service, path))
	if r.Stdout != code {
		return fmt.Errorf("GET %s on svc-%d: got %q, want %s; %s", path, service, r.Stdout, code, r.Stderr)
	}
	return nil
}

// TestRenewalsUnderLoad forces 100 renewals of 20 workloads under 200 requests
// a second: no permitted request may fail.
func TestRenewalsUnderLoad(t *testing.T) {
	const workloads, renewals = 20, 100
	w := newWorld(t)
	w.apply(workloads)
	for i := range workloads {
		w.expose(t, i)
	}
	lab.Eventually(t, lab.Soon, "the last service answers", func() error { return w.call(workloads-1, "/ok/x", "200") })
	loadRun := w.Start("kith", append([]string{"run", "--as", "web", "--"}, self("load", strconv.Itoa(workloads), "200", "10m")...)...)
	before := w.issued(t)
	for i := range renewals {
		w.agent.Signal(syscall.SIGHUP)
		lab.Eventually(t, lab.Soon, "every workload has renewed", func() error {
			if got := w.issued(t) - before; got < float64((i+1)*(workloads+1)) {
				return fmt.Errorf("issued %v since the start, want %d", got, (i+1)*(workloads+1))
			}
			return nil
		})
	}
	loadRun.Signal(syscall.SIGTERM)
	<-loadRun.Done()
	got := parseTally(t, loadRun.Output())
	t.Logf("%d requests during %v renewals: %d failed", got.Requests, w.issued(t)-before, got.Failed)
	if got.Failed != 0 || got.Forbidden != 0 {
		t.Errorf("got %d failed and %d forbidden answers, want none: %v", got.Failed, got.Forbidden, got.Errors)
	}
	if got.Requests < 1000 {
		t.Errorf("only %d requests ran", got.Requests)
	}
}

// issued is the server's count of workload SVIDs.
func (w *world) issued(t *testing.T) float64 {
	t.Helper()
	return w.metric(t, "kith_ca_issued_total")
}

// TestStoreChildStopped freezes the store: decisions and renewals go on,
// changes are refused at once with a reason, and all is well after.
func TestStoreChildStopped(t *testing.T) {
	w := newWorld(t)
	w.apply(2)
	w.expose(t, 0)
	w.expose(t, 1)
	w.settled(t)
	child := w.storeChild(t)
	if err := syscall.Kill(child, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGCONT) })
	before := w.issued(t)
	w.agent.Signal(syscall.SIGHUP)
	lab.Eventually(t, lab.Soon, "renewals go on without the store", func() error {
		if got := w.issued(t) - before; got < 2 {
			return fmt.Errorf("issued %v", got)
		}
		return nil
	})
	w.settled(t)
	start := time.Now()
	r := w.Try("kith", "allow", "web", "GET /late", "on", "svc-0")
	if r.Code == 0 || !strings.Contains(r.Stderr, "store") {
		t.Errorf("a change without the store: exit %d, %q; want a refusal that names the store", r.Code, r.Stderr)
	}
	t.Logf("refused after %v: %s", time.Since(start), r.Stderr)
	_ = syscall.Kill(child, syscall.SIGCONT)
	lab.Eventually(t, lab.Soon, "changes work again", func() error {
		if r := w.Try("kith", "allow", "web", "GET /later", "on", "svc-0"); r.Code != 0 {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
}
