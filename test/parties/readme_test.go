//go:build parties

package parties

import (
	"os"
	"strings"
	"testing"

	"github.com/kith-id/kith/test/lab"
)

// fiveMinutes is the block of commands below README's "Five minutes".
func fiveMinutes(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "## Five minutes")
	_, after, _ = strings.Cut(after, "```\n")
	block, _, ok := strings.Cut(after, "```")
	if !ok {
		t.Fatal("README has no block of commands below Five minutes")
	}
	return strings.Split(strings.TrimSpace(block), "\n")
}

// TestReadmeWordForWord types the README's first five minutes into a shell.
func TestReadmeWordForWord(t *testing.T) {
	h := lab.NewHost(t)
	h.FindKith()
	h.WriteFile("v1/orders", "three orders\n")
	if err := os.Chmod(h.WriteFile("orders", "#!/bin/sh\nexec python3 -m http.server --bind 127.0.0.1 8080\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	expect := []string{"", "", "no rule allows web", "effective on 1 of 1 node", "three orders", "allow_rule"}
	lines := fiveMinutes(t)
	if len(lines) != len(expect) {
		t.Fatalf("README has %d commands, this test knows what %d of them say", len(lines), len(expect))
	}
	for i, line := range lines {
		switch {
		case i == 0:
			h.WaitReady(h.Start("bash", "-c", "exec "+line))
		case i == 1:
			h.Start("bash", "-c", "exec "+line)
			h.WaitPort(8080)
			h.WaitPort(8443)
		default:
			r := h.Try("bash", "-c", line)
			if r.Code != 0 || !strings.Contains(r.Stdout+r.Stderr, expect[i]) {
				t.Errorf("%s\ngot exit %d\n%s%s\nwant %q", line, r.Code, r.Stdout, r.Stderr, expect[i])
			}
		}
	}
}
