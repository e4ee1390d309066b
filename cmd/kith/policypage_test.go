package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Every block of docs/policy.md runs as it stands, in its order.
func TestPolicyPageRuns(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var script, files strings.Builder
	script.WriteString("exec kith dev &dev&\neventually kith status\n")
	blocks := 0
	for rest := string(page); ; {
		_, after, ok := strings.Cut(rest, "\n```")
		if !ok {
			break
		}
		kind, after, _ := strings.Cut(after, "\n")
		body, after, ok := strings.Cut(after, "\n```")
		if !ok {
			t.Fatal("a block without an end")
		}
		rest = after
		switch blocks++; kind {
		case "sh":
			for line := range strings.SplitSeq(body, "\n") {
				name := "line-" + strings.Repeat("x", strings.Count(files.String(), "\n-- ")+1)
				files.WriteString("\n-- " + name + " --\nset -eu\n" + line + "\n")
				script.WriteString("exec sh " + name + "\n")
			}
		case "yaml":
			files.WriteString("\n-- platform.yaml --\n" + body + "\n")
		default:
			t.Errorf("a block of kind %q", kind)
		}
	}
	if blocks < 5 {
		t.Fatalf("%d blocks", blocks)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.txtar"), []byte(script.String()+files.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, Setup: oneHost,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": cmdEventually},
	})
}
