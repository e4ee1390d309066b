package main

import (
	"fmt"
	"os"
	"time"

	"go.uber.org/goleak"
)

// leaksVar names the directory to which each kith of a script writes what it
// left running, because nobody reads the stderr of one that was told to end. It is
// no KITH_ variable: kith demo keeps those from what it starts.
const leaksVar = "LEAKS_OF_KITH"

// leakLimit bounds how long a goroutine that was told to end may take; it takes
// milliseconds on an idle machine.
const leakLimit = 30 * time.Second

// leftRunning is an error that has the stack of each goroutine that does not end.
func leftRunning() error {
	deadline := time.Now().Add(leakLimit)
	for {
		if err := goleak.Find(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// accountable is main for scripts: whoever starts a goroutine waits for it, so
// once a verb has returned, nothing runs.
func accountable() int {
	code := execute()
	if dir := os.Getenv(leaksVar); dir != "" {
		if err := leftRunning(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			report := fmt.Appendf(nil, "%q\n%v\n", os.Args, err)
			if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, os.Getpid()), report, 0o600); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			return 1
		}
	}
	return code
}

// leaksOf runs the tests and fails if they, or a kith of a script, left a
// goroutine behind.
func leaksOf(tests func() int) int {
	dir, err := os.MkdirTemp("", "kith-leaks")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Setenv(leaksVar, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := tests()
	reports, err := os.ReadDir(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, report := range reports {
		text, err := os.ReadFile(dir + "/" + report.Name())
		fmt.Fprintf(os.Stderr, "left behind by kith: %s%v\n", text, err)
		code = max(code, 1)
	}
	if err := leftRunning(); err != nil && code == 0 {
		fmt.Fprintf(os.Stderr, "left behind by the tests of this package: %v\n", err)
		code = 1
	}
	return code
}
