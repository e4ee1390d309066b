package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// block is a fenced block of a page.
type block struct{ kind, body string }

// blocksOf are the fenced blocks of a page of the documentation.
func blocksOf(t *testing.T, page string) (blocks []block) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for rest := string(text); ; {
		_, after, ok := strings.Cut(rest, "\n```")
		if !ok {
			return blocks
		}
		kind, after, _ := strings.Cut(after, "\n")
		body, after, ok := strings.Cut(after, "\n```")
		if !ok {
			t.Fatalf("%s: a block without an end", page)
		}
		rest, blocks = after, append(blocks, block{kind, body})
	}
}

// Every block of docs/teams.md runs as it stands, in its order; what the page
// says is refused is refused.
func TestTeamsPageRuns(t *testing.T) {
	t.Parallel()
	var script, files strings.Builder
	script.WriteString("port API ADMIN\ncp server.yaml $KITH_CONFIG\nexec sed -i s/PORT/$API/ $KITH_CONFIG\n" +
		"exec kith server --admin-listen 127.0.0.1:$ADMIN &server&\neventually kith status\n")
	refused := 0
	add := func(i int, fails, body string) {
		body = strings.ReplaceAll(body, "control.acme.example:8444", "127.0.0.1:$ADMIN")
		fmt.Fprintf(&files, "\n-- block-%d --\nset -eu\n%s\n", i, body)
		fmt.Fprintf(&script, "%sexec sh block-%d\n", fails, i)
	}
	for i, b := range blocksOf(t, "../../docs/teams.md") {
		switch b.kind {
		case "sh":
			add(100*i, "", b.body)
		case "refused":
			for j, line := range strings.Split(b.body, "\n") {
				refused++
				add(100*i+j, "! ", "export KITH_SERVER=127.0.0.1:$ADMIN KITH_ADMIN_SVID=ana\n"+line)
				script.WriteString("stderr '^error: .*(team|platform|role admin)'\nstderr '^hint: '\n")
			}
		case "yaml":
			fmt.Fprintf(&files, "\n-- platform.yaml --\n%s\n", b.body)
		default:
			t.Errorf("a block of kind %q", b.kind)
		}
	}
	if refused < 5 {
		t.Fatalf("%d refusals", refused)
	}
	script.WriteString("stdout 'would create rule'\nstderr '^would be refused: rule orders-levels-.* is of team stock'\n")
	files.WriteString("\n-- server.yaml --\ntrust_domain: acme.example\nserver:\n  listen: 127.0.0.1:PORT\n  metrics: \"\"\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "teams.txtar"), []byte(script.String()+files.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true, Setup: oneHost,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": cmdEventually, "port": cmdPort},
	})
}
