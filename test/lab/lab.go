// Package lab runs kith and its real neighbours as processes for the suites
// below test/; it knows command lines and sockets, never the code behind them.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Binary is the kith under test: $KITH_BIN, or built once for this run.
var Binary = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("KITH_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	return build()
})

// testBuild is a kith whose clock can be set off and that can be given a fault.
var testBuild = sync.OnceValues(func() (string, error) { return build("-tags", "kithtest") })

func build(flags ...string) (string, error) {
	dir, err := os.MkdirTemp("", "kith-bin")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "kith")
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", append(append([]string{"build", "-trimpath"}, flags...), "-o", bin, "./cmd/kith")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kith: %w\n%s", err, out)
	}
	return bin, nil
}

func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// Host is one machine's view: its directories, environment and, for a network
// namespace, its network.
type Host struct {
	t     testing.TB
	Dir   string
	NetNS string // "" is the network of the test itself

	started atomic.Int64 // processes, for the names of their logs

	mu  sync.Mutex
	bin string   // guarded by mu
	env []string // guarded by mu
}

// NewHost makes an empty host in this network. Directories are short, because
// unix socket paths are limited to 107 bytes.
func NewHost(t testing.TB) *Host {
	t.Helper()
	bin, err := Binary()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "kl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("directory kept: %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	for _, d := range []string{"state", "run", "etc"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	h := &Host{t: t, bin: bin, Dir: dir}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if low := strings.ToLower(name); strings.HasPrefix(low, "kith_") || strings.HasSuffix(low, "_proxy") || low == "spiffe_endpoint_socket" {
			continue
		}
		h.env = append(h.env, kv)
	}
	h.env = append(h.env,
		"KITH_STATE_DIR="+filepath.Join(dir, "state"),
		"KITH_RUN_DIR="+filepath.Join(dir, "run"),
		"KITH_CONFIG="+filepath.Join(dir, "etc", "kith.yaml"),
	)
	return h
}

// SkewClock sets the clock of every kith started on this host from now on.
func (h *Host) SkewClock(offset time.Duration) {
	h.t.Helper()
	h.TestBuild("KITH_TEST_CLOCK_OFFSET=" + offset.String())
}

// SetClock sets the clock of this host, also under programs that run already if
// it was called before they were started.
func (h *Host) SetClock(offset time.Duration) {
	h.t.Helper()
	path := filepath.Join(h.Dir, "etc", "clock")
	if err := os.WriteFile(path+".new", []byte(offset.String()), 0o644); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil { // whoever looks finds one or the other
		h.t.Fatal(err)
	}
	h.TestBuild("KITH_TEST_CLOCK_OFFSET=@" + path)
}

// TestBuild makes every kith started on this host from now on one of the tag
// kithtest, with these variables.
func (h *Host) TestBuild(env ...string) {
	h.t.Helper()
	bin, err := testBuild()
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.bin = bin
	h.mu.Unlock()
	h.Setenv(env...)
}

// Setenv adds variables for what is started on this host from now on.
func (h *Host) Setenv(env ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.env = append(h.env, env...) // of two of one name the last one counts
}

// program is the command line's program and environment as they are now.
func (h *Host) program(name string) (string, []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if name == "kith" {
		name = h.bin
	}
	return name, slices.Clone(h.env)
}

// FindKith puts the kith under test on the host's PATH, for what people type into
// a shell.
func (h *Host) FindKith() {
	h.Setenv("PATH=" + filepath.Dir(h.bin) + ":" + os.Getenv("PATH"))
}

// AgentSocket is the host's Workload API address.
func (h *Host) AgentSocket() string { return filepath.Join(h.Dir, "run", "agent.sock") }

// WriteConfig writes the host's kith.yaml.
func (h *Host) WriteConfig(yaml string) {
	h.t.Helper()
	h.WriteFile("etc/kith.yaml", yaml)
}

// WriteFile writes a file below the host's directory and returns its path.
func (h *Host) WriteFile(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// Command is a command on this host; the kith binary for "kith".
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	name, env := h.program(name)
	if h.NetNS != "" {
		args = append([]string{"--net=/run/netns/" + h.NetNS, "--", name}, args...)
		name = "nsenter"
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = env
	cmd.Dir = h.Dir
	return cmd
}

// Result is what a finished command left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Try runs a command to its end, at most a minute.
func (h *Host) Try(name string, args ...string) Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := h.Command(ctx, name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return Result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// Do runs a command that must succeed and returns its standard output.
func (h *Host) Do(name string, args ...string) string {
	h.t.Helper()
	r := h.Try(name, args...)
	if r.Code != 0 {
		h.t.Fatalf("%s %s: exit %d\nstdout: %s\nstderr: %s", name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Kith runs a kith verb that must succeed.
func (h *Host) Kith(args ...string) string {
	h.t.Helper()
	return h.Do("kith", args...)
}
