//go:build chaos

package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// TestDiskFull fills the server's file system: renewals and decisions go on,
// changes are refused with a reason, and with space back all is well again and
// nothing acknowledged is lost.
func TestDiskFull(t *testing.T) {
	host := lab.NewHost(t)
	state := filepath.Join(host.Dir, "state")
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=300m,mode=0700", "tmpfs", state).CombinedOutput(); err != nil {
		t.Fatalf("mount a small file system: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", state).Run() })
	w := worldOn(t, host)
	w.apply(2)
	w.expose(t, 0)
	w.expose(t, 1)
	w.settled(t)
	w.Kith("allow", "web", "GET /before", "on", "svc-0", "--name", "before")

	ballast := filepath.Join(state, "ballast")
	fill(t, ballast)
	before := w.issued(t)
	w.agent.Signal(syscall.SIGHUP)
	lab.Eventually(t, lab.Soon, "renewals go on with a full disk", func() error {
		if got := w.issued(t) - before; got < 2 {
			return fmt.Errorf("issued %v", got)
		}
		return nil
	})
	refused := w.changeUntilRefused(t)
	t.Logf("refused: %s", refused)
	if !strings.Contains(refused, "store") || !strings.Contains(refused, "disk") {
		t.Errorf("a change with a full disk: %q; want a refusal that names store and disk", refused)
	}
	w.settled(t)

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, lab.Soon, "changes work again", func() error {
		if r := w.Try("kith", "allow", "web", "GET /after", "on", "svc-0", "--name", "after"); r.Code != 0 && !strings.Contains(r.Stderr, "exists") {
			return fmt.Errorf("%s", r.Stderr)
		}
		return nil
	})
	rules := w.ruleNames(t)
	for _, name := range []string{"before", "after"} {
		if !strings.Contains(rules, `"`+name+`"`) {
			t.Errorf("rule %s is lost: %s", name, rules)
		}
	}
	w.settled(t)
}

// fill writes until the file system is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

// changeUntilRefused makes large changes until the store can take no more: it
// has preallocated room that small changes would fit in.
func (w *world) changeUntilRefused(t *testing.T) string {
	t.Helper()
	for i := range 400 {
		var actions []string
		for j := range 400 {
			actions = append(actions, fmt.Sprintf("%q", fmt.Sprintf("GET /fill/%d/%d/%s", i, j, strings.Repeat("x", 200))))
		}
		file := filepath.Join(os.TempDir(), fmt.Sprintf("kith-fill-%d.yaml", os.Getpid()))
		text := fmt.Sprintf("owner: fill\nrules:\n  - {name: fill-%d, from: web, to: svc-1, allow: [%s]}\n", i%4, strings.Join(actions, ", "))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := w.Try("kith", "apply", "-f", file)
		_ = os.Remove(file)
		if r.Code != 0 {
			return r.Stderr
		}
	}
	t.Fatal("400 large changes were accepted with a full disk")
	return ""
}
