package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// startScript runs a shell script as kith run would, and waits until it has
// said something. It collects every child of this process that ends, as kith run
// has one only: no test here runs beside others, which start processes too.
func startScript(t *testing.T, script string) *child {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	a := &app{stdin: strings.NewReader(""), stdout: in, stderr: io.Discard}
	c, err := a.startChild([]string{"sh", "-c", script}, os.Environ())
	in.Close() // the program has a copy of its own
	if err != nil {
		t.Fatal(err)
	}
	if lines := bufio.NewScanner(out); !lines.Scan() {
		t.Fatal("the program ended without a word")
	}
	return c
}

func TestSignalsReachTheProgramAndItsCodeComesBack(t *testing.T) {
	c := startScript(t, `trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done`)
	withdrawn := false
	c.onTerm = func() { withdrawn = true }
	c.signals <- unix.SIGTERM
	if got := exitCode(c.wait(t.Context())); got != 9 {
		t.Errorf("exit code: got %d, want 9", got)
	}
	if !withdrawn {
		t.Error("callers were not told to go elsewhere before the program was asked to end")
	}
}

func TestProgramEndsWithItsDataPlane(t *testing.T) {
	c := startScript(t, `echo ready; exec sleep 60`)
	failed, fail := context.WithCancel(t.Context())
	fail()
	if got, want := exitCode(c.wait(failed)), 128+int(unix.SIGTERM); got != want {
		t.Errorf("exit code: got %d, want %d", got, want)
	}
}

// TestOrphansAreAdoptedAndReaped: a grandchild whose parent has ended becomes
// ours, so that the claim still covers it, and leaves no zombie. The script
// looks for both itself.
func TestOrphansAreAdoptedAndReaped(t *testing.T) {
	c := startScript(t, `
		pid=$(sh -c 'sleep 0.5 >/dev/null & echo $!')
		echo ready
		grep -q "^PPid:.$PPID\$" /proc/$pid/status || exit 2
		for i in $(seq 100); do
			[ -e /proc/$pid ] || exit 0
			sleep 0.05
		done
		exit 3`)
	switch got := exitCode(c.wait(t.Context())); got {
	case 0:
	case 2:
		t.Error("the orphan was not adopted")
	case 3:
		t.Error("the orphan ended and was not collected")
	default:
		t.Errorf("exit code: got %d, want 0", got)
	}
}
