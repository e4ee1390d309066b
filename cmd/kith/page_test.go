package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/run/runtest"
)

// loginKey is the key of the provider on the pages; it is nobody's.
func loginKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte("a provider of documentation, 32B"))
}

// serveLogin is a provider's web server on a port of loopback.
func serveLogin(args []string) int {
	x := base64.RawURLEncoding.EncodeToString(loginKey().Public().(ed25519.PublicKey))
	srv := &http.Server{
		Addr: "127.0.0.1:" + args[0], ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"docs","x":%q}]}`, x)
		}),
	}
	fmt.Fprintln(os.Stderr, srv.ListenAndServe())
	return 1
}

// printToken is a user's token of that provider: user-token USER GROUP.
func printToken(args []string) int {
	part := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	content := part(map[string]any{"alg": "EdDSA", "kid": "docs"}) + "." + part(map[string]any{
		"iss": os.Getenv("LOGIN"), "sub": args[0], "aud": "orders-api", "groups": args[1:], "exp": time.Now().Add(time.Hour).Unix(),
	})
	fmt.Println(content + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(loginKey(), []byte(content))))
	return 0
}

// page is the blocks of a page of documentation that run: sh, each line of which
// must succeed, and yaml and nginx, each under the file name in backquotes before it. Ports
// are exchanged for free ones.
func page(t *testing.T, name string, ports ...string) (script string, env map[string]string) {
	t.Helper()
	env = map[string]string{}
	body := pageText(t, name)
	for _, old := range ports {
		port, err := runtest.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		free := strconv.Itoa(port)
		body = strings.ReplaceAll(body, old, free)
		env["PORT"+old] = free
	}
	var out, files strings.Builder
	for lines, file := strings.Split(body, "\n"), ""; len(lines) > 0; lines = lines[1:] {
		kind, fenced := strings.CutPrefix(lines[0], "```")
		if !fenced {
			if word, ok := strings.CutPrefix(lines[0], "`"); ok && strings.HasSuffix(word, "`:") {
				file = strings.TrimSuffix(word, "`:")
			}
			continue
		}
		end := 1
		for lines[end] != "```" {
			end++
		}
		block := lines[1:end]
		lines = lines[end:]
		switch kind {
		case "sh":
			for _, line := range block {
				out.WriteString(shell(&files, line))
			}
		case "":
			if _, err := config.Parse(name, []byte(strings.Join(block, "\n"))); err != nil {
				t.Errorf("a block that is not run is no kith.yaml either: %v", err)
			}
		case "yaml", "nginx":
			files.WriteString("-- " + file + " --\n" + strings.Join(block, "\n") + "\n")
		}
	}
	return out.String() + files.String(), env
}

func pageText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// shell runs one line of a page; one that ends in & stays in the background.
func shell(files *strings.Builder, line string) string {
	name := fmt.Sprintf("line-%d", strings.Count(files.String(), "\n-- ")+strings.Count(files.String(), "-- line-"))
	command, background := strings.CutSuffix(line, " &")
	if background {
		command = "exec " + command // so that the end of the script reaches it
	}
	files.WriteString("-- " + name + " --\nset -eu -o pipefail\n" + command + "\n")
	if background {
		return "exec bash " + name + " &\n"
	}
	return "eventually bash " + name + "\n"
}

// runPage runs a page after the lines of setup.
func runPage(t *testing.T, setup, script string, env map[string]string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "page.txtar"), []byte(setup+script), 0o600); err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for name, value := range env {
				e.Setenv(name, value)
			}
			return oneHost(e)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"eventually": cmdEventually, "port": cmdPort, "capture": cmdCapture},
	})
}

// serveRefusals is an OPA on a port of loopback that agrees to nothing.
func serveRefusals(args []string) int {
	srv := &http.Server{
		Addr: "127.0.0.1:" + args[0], ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"result":false}`) }),
	}
	fmt.Fprintln(os.Stderr, srv.ListenAndServe())
	return 1
}

func TestExternalPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "external.md", "8181", "8443", "8080")
	runPage(t, "exec refuses $PORT8181 &\nexec kith dev &dev&\neventually kith status\n", script, env)
}

func TestUserTokenPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "jwt.md", "9090", "8443", "8080")
	env["LOGIN"] = "http://127.0.0.1:" + env["PORT9090"]
	runPage(t, "exec login $PORT9090 &\nexec kith dev &dev&\neventually kith status\n", script, env)
}

func TestEditorsPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "editors.md")
	runPage(t, "", script, env)
}

func TestWIMSEPageRuns(t *testing.T) {
	t.Parallel()
	script, env := page(t, "wimse.md", "8443", "8444", "8080")
	runPage(t, "exec kith dev --wit &dev&\neventually kith status\n", script, env)
}
