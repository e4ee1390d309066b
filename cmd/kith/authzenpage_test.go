package main

import (
	"strings"
	"testing"
)

// The page runs with a real agent and curl on its socket: nothing but a path
// changes for an application that asks an OPA.
func TestAuthZENPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "authzen.md", "8181")
	script = strings.ReplaceAll(script, "/run/kith/", "$KITH_RUN_DIR/")
	runPage(t, "env KITH_CONFIG=$WORK/kith.yaml\nexec kith dev &dev&\neventually kith status\n", script, env)
}
