package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// ending is a member's program that first ends so often in some way.
func ending(t *testing.T, times int, how string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	binary, script := filepath.Join(dir, "member"), "#!/bin/sh\n"
	for i := range times {
		script += fmt.Sprintf("if mkdir %q 2>/dev/null; then %s; fi\n", filepath.Join(dir, fmt.Sprint(i)), how)
	}
	if err := os.WriteFile(binary, []byte(script+fmt.Sprintf("exec %q \"$@\"\n", self)), 0o700); err != nil {
		t.Fatal(err)
	}
	return binary
}

// A server and its store member may be killed in any order, also while the
// server waits for a member that has just been started. A panic may pass, too;
// what a member says for itself does not.
func TestMemberThatEndsBeforeItServesIsStartedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		times int
		how   string
		works bool
	}{
		"killed":               {1, "kill -9 $$", true},
		"a panic":              {panicAttempts - 1, `echo '{"level":"panic","msg":"scanning"}' >&2; exit 2`, true},
		"panics without end":   {panicAttempts, `echo 'panic: scanning' >&2; exit 2`, false},
		"said why it does not": {1, "echo 'failed scanning'; exit 1", false},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Binary = ending(t, c.times, c.how)
			e, err := OpenEtcd(t.Context(), cfg)
			if (err == nil) != c.works || err != nil && !strings.Contains(err.Error(), "scanning") {
				t.Errorf("open: got %v, want it to work: %t", err, c.works)
			}
			if e != nil {
				e.Close()
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(cfg.Binary), "[0-9]*")); len(left) != c.times {
				t.Errorf("ended %d times, want %d", len(left), c.times)
			}
		})
	}
}

// A member that starts reads its log back and drops the entries it needs no
// more, while it is told to lead. Told too early it would look for one that is
// dropped, and end. Members start side by side here, so that each is slow.
func TestMemberWithALogLeadsOnlyWhenItHasReadIt(t *testing.T) {
	t.Parallel()
	const members, starts, commits = 6, 5, 60
	var running sync.WaitGroup
	for range members {
		cfg := testConfig(t)
		running.Go(func() {
			for start := range starts {
				e, err := OpenEtcd(t.Context(), cfg)
				if err != nil {
					t.Errorf("start %d: %v", start, err)
					return
				}
				for i := range commits {
					if _, err := putOne(t.Context(), e, "a/x", fmt.Sprint(i)); err != nil {
						t.Errorf("commit %d of start %d: %v", i, start, err)
					}
				}
				e.Close()
			}
		})
	}
	running.Wait()
}
