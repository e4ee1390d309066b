package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kith-id/kith/internal/run/runtest"
)

// clients is the kith of the scripts of a race test. What lives is this binary,
// with the race detector: servers, agents (join is one), proxies (run and curl),
// watch, and what is told to --watch. The verbs that ask and end start no goroutine
// of their own; they are a plain build, because there are hundreds of them, and
// the start of the detector costs five times the CPU of all else that they do.
const clients = `#!/bin/sh
case "$* " in
dev\ * | demo\ * | server\ * | agent\ * | join\ * | proxy\ * | run\ * | curl\ * | watch\ * | *\ --watch\ *) exec '%s' "$@" ;;
esac
exec '%s' "$@"
`

// suite runs the tests, with clients before this binary in PATH, and looks for
// goroutines that they leave behind.
type suite struct{ m *testing.M }

func (s suite) Run() int { return leaksOf(s.run) }

func (s suite) run() int {
	if !runtest.Raced {
		return s.m.Run()
	}
	dir, err := os.MkdirTemp("", "kith-clients")
	if err == nil {
		defer os.RemoveAll(dir)
		err = makeClients(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return s.m.Run()
}

// makeClients builds kith as `make build` does, whose packages may be cached.
func makeClients(dir string) error {
	living, err := exec.LookPath("kith")
	if err != nil {
		return err
	}
	asking := filepath.Join(dir, "asking", "kith")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", asking, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build kith: %w\n%s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "kith"), fmt.Appendf(nil, clients, living, asking), 0o700); err != nil {
		return err
	}
	return os.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
}
