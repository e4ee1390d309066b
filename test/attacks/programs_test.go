//go:build attacks

package attacks

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// T3: the program that a rule names is told apart from what only looks like it: a
// program that was put over its path in a mount namespace of its own, a script there
// that runs another, one that calls itself like it, and the program of another user.
func TestThreatT03OtherProgramsUnderTheNameOfOne(t *testing.T) {
	h := lab.NewHost(t)
	h.Dev()
	other := program(t, h) // the same bytes elsewhere: a rule names a path, not what it does
	legit := copied(t, h, other, "legit")
	h.Kith("apply", "-f", h.WriteFile("ids.yaml", fmt.Sprintf(`identities:
  - {name: legit, nodes: [dev], id: /dev/legit, require: 'workload.unix.path == "%s" && workload.unix.uid == %s'}
`, legit, stranger)))
	env := []string{"env", "KITH_RUN_DIR=" + filepath.Join(h.Dir, "run"), "HOME=" + h.Dir, "KITH_STATE_DIR=" + filepath.Join(h.Dir, "none")}
	fetch := func(uid string, command ...string) (string, []string) {
		return "setpriv", asUser(uid, append(append([]string{}, env...), command...)...)
	}
	ask := []string{"get", "svid"}
	name, args := fetch(stranger, append([]string{legit}, ask...)...)
	if out := h.Do(name, args...); !strings.Contains(out, "BEGIN CERTIFICATE") {
		t.Fatalf("the program that the rule names has no identity: %s", out)
	}
	script := h.WriteFile("script", "#!/bin/sh\n[ $# = 2 ] && exec "+other+" \"$@\"\n")
	h.Do("chmod", "755", script)
	over := "mount --bind " + other + " " + legit + " && exec setpriv --reuid " + stranger + " --regid " + stranger + " --clear-groups -- " +
		strings.Join(append(append([]string{}, env...), append([]string{legit}, ask...)...), " ")
	for what, command := range map[string][]string{
		"another program": join(fetch(stranger, append([]string{other}, ask...)...)),
		"another program over the path, in a mount namespace of its own": {"unshare", "--mount", "sh", "-c", over},
		"a script over the path, in a mount namespace of its own":        {"unshare", "--mount", "sh", "-c", strings.Replace(over, "--bind "+other, "--bind "+script, 1)},
		"another program that calls itself like it":                      join(fetch(stranger, "bash", "-c", "exec -a "+legit+" "+other+" get svid")),
		"the program, of another user":                                   join(fetch(victim, append([]string{legit}, ask...)...)),
	} {
		if out := mustFail(t, h, what, command[0], command[1:]...); strings.Contains(out, "BEGIN") || !strings.Contains(out, "no identity") {
			t.Errorf("%s: got %s, want no identity", what, out)
		}
	}
}

func join(name string, args []string) []string { return append([]string{name}, args...) }
