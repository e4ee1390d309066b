package store

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/kith-id/kith/internal/run/runtest"
)

// memberVar names the program that most members of a race test are.
const memberVar = "KITH_TEST_MEMBER"

// TestMain lets the test binary be the member that OpenEtcd starts.
func TestMain(m *testing.M) {
	verb := MemberVerb()
	if len(os.Args) > len(verb) && slices.Equal(os.Args[1:1+len(verb)], verb) {
		if err := RunMember(context.Background(), os.Args[1+len(verb):]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == parentVerb {
		if err := runParent(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// These tests wait for processes far more than they compute.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if runtest.Raced && os.Getenv(memberVar) == "" { // set: this is a run of one flaw
		dir, err := plainMembers()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
			os.RemoveAll(dir)
			os.Exit(code)
		}))
	}
	goleak.VerifyTestMain(m)
}

// plainMembers builds this program without the race detector, to be the members
// of the tests. Nearly all of a member is its engine, of which eighty are started
// and in which the detector takes three quarters of the CPU; what is ours in it
// runs with the detector in the tests of RunMember and of a server that is killed.
func plainMembers() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "kith-member"); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "member")
	build := exec.Command("go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as kith is built: its packages may be cached
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the member: %w\n%s", err, out)
	}
	// Else each process with the detector ends with a second of sleep.
	return dir, errors.Join(os.Setenv(memberVar, binary), os.Setenv("GORACE", "atexit_sleep_ms=0"))
}
