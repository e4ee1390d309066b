package store

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// A server and its store member may be killed in any order, also while the
// server waits for a member that has just been started.
func TestMemberKilledBeforeItServesIsStartedAgain(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t)
	dir := t.TempDir()
	marker := filepath.Join(dir, "killed-once")
	binary := filepath.Join(dir, "member")
	script := fmt.Sprintf("#!/bin/sh\nif mkdir %q 2>/dev/null; then kill -9 $$; fi\nexec %q \"$@\"\n", marker, self)
	if err := os.WriteFile(binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg.Binary = binary
	e, err := OpenEtcd(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open a store whose first member was killed: %v", err)
	}
	defer e.Close()
	if _, err := os.Stat(marker); err != nil {
		t.Errorf("the first member was not killed: %v", err)
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
