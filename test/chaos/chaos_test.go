//go:build chaos

// Package chaos runs server, agents and proxies as processes on hosts of their
// own, under load, and kills, stops, partitions and starves them: nothing
// acknowledged may be lost, nothing forbidden allowed, and all must come back
// in time. docs/reliability.md says what it shows.
package chaos

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets the test binary play the applications and the load.
func TestMain(m *testing.M) {
	var err error
	switch os.Getenv("CHAOS_ROLE") {
	case "":
		os.Exit(m.Run())
	case "web":
		err = serveHTTP(os.Args[1])
	case "echo":
		err = serveEcho(os.Args[1])
	case "load":
		err = load(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// self is the command line of this binary in a role.
func self(role string, args ...string) []string {
	return append([]string{"env", "CHAOS_ROLE=" + role, os.Args[0]}, args...)
}
