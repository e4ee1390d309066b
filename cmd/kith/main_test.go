package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/run/runtest"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this binary kith itself for the scripts, and app the
// unmodified HTTP server that they put behind it.
func TestMain(m *testing.M) {
	testscript.Main(suite{m}, map[string]func(){
		"kith": func() { os.Exit(accountable()) },
		"app":  func() { os.Exit(unmodified(os.Args[1:])) },

		"login":      func() { os.Exit(serveLogin(os.Args[1:])) },
		"collector":  func() { os.Exit(serveCollector(os.Args[1:])) },
		"refuses":    func() { os.Exit(serveRefusals(os.Args[1:])) },
		"user-token": func() { os.Exit(printToken(os.Args[1:])) },
		"web-cert":   func() { os.Exit(writeCertificate(os.Args[1:])) },
	})
}

// unmodified serves HTTP on a port of loopback until it is killed; with a second
// argument it exits with that code instead.
func unmodified(args []string) int {
	if len(args) == 2 {
		code, err := strconv.Atoi(args[1])
		if err != nil {
			return 1
		}
		return code
	}
	srv := &http.Server{
		Addr: "127.0.0.1:" + args[0], ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "app saw %s %s\n", r.Method, r.URL)
		}),
	}
	fmt.Fprintln(os.Stderr, srv.ListenAndServe())
	return 1
}

// TestScripts is the behaviour of the whole command line, a file a verb.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               oneHost,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"port":       cmdPort,
			"eventually": cmdEventually,
			"capture":    cmdCapture,
		},
	})
}

// oneHost gives a script directories of its own. They are short, because a
// socket's path is limited to 107 bytes.
func oneHost(env *testscript.Env) error {
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(dir) })
	env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a race test ends with a second of sleep
	env.Setenv(leaksVar, os.Getenv(leaksVar))
	env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("HOST", dir)
	env.Setenv("KITH_RUN_DIR", filepath.Join(dir, "run"))
	env.Setenv("KITH_STATE_DIR", filepath.Join(dir, "state"))
	env.Setenv("KITH_CONFIG", filepath.Join(dir, "kith.yaml"))
	return nil
}

// cmdPort sets each named variable to a free port.
func cmdPort(ts *testscript.TestScript, _ bool, names []string) {
	for _, name := range names {
		port, err := runtest.FreePort()
		ts.Check(err)
		ts.Setenv(name, strconv.Itoa(port))
	}
}

// cmdEventually repeats a command until it succeeds (or, with !, fails).
func cmdEventually(ts *testscript.TestScript, neg bool, args []string) {
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	if strings.Join(args, " ") == "kith status" {
		awaitServer(ts, deadline, tick.C)
	}
	for last := ""; ; {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = ts.Getenv("WORK"), environOf(ts)
		out, err := cmd.CombinedOutput()
		if (err != nil) == neg {
			return
		}
		if text := string(out); text != last {
			ts.Logf("%s: %v\n%s", strings.Join(args, " "), err, text)
			last = text
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not as wanted within 60 s", strings.Join(args, " "))
		}
		<-tick.C
	}
}

// awaitServer returns once a server or an agent listens on the script's sockets.
// Until then nobody has to be asked: the processes that do would take their CPU
// from the start that they wait for.
func awaitServer(ts *testscript.TestScript, deadline time.Time, tick <-chan time.Time) {
	for {
		for _, name := range []string{"admin.sock", "agent.sock"} {
			if conn, err := net.Dial("unix", filepath.Join(ts.Getenv("KITH_RUN_DIR"), name)); err == nil {
				conn.Close()
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no server and no agent within 60 s")
		}
		<-tick
	}
}

// environOf is the script's environment, as far as kith reads it.
func environOf(ts *testscript.TestScript) []string {
	env := []string{"PATH=" + os.Getenv("PATH")}
	for _, name := range []string{"HOME", "KITH_RUN_DIR", "KITH_STATE_DIR", "KITH_CONFIG", "KITH_SERVER", "LOGIN", "SPIFFE_BROKER_SOCKET", leaksVar} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// cmdCapture runs a command that must succeed and sets a variable to the last
// word that it prints.
func cmdCapture(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Exec(args[1], args[2:]...))
	words := strings.Fields(ts.ReadFile("stdout"))
	if len(words) == 0 {
		ts.Fatalf("%s printed nothing", strings.Join(args[1:], " "))
	}
	ts.Setenv(args[0], words[len(words)-1])
}
