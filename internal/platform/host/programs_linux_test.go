package host

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/registry"
)

// inspected starts a program that waits for its standard input and returns its
// attributes, and what was mapped into its memory, once it runs.
func inspected(t *testing.T, cmd *exec.Cmd, mapped string) registry.Attributes {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	defer func() {
		stdin.Close()
		_ = cmd.Wait()
	}()
	// An answer tells that everything is loaded.
	if _, err := stdin.Write([]byte("ready\n")); err != nil {
		t.Fatal(err)
	}
	if answer := make([]byte, 6); readAll(stdout, answer) != nil || string(answer) != "ready\n" {
		t.Fatalf("%v does not run: it says %q", cmd.Args, answer)
	}
	maps, err := procFile(int32(cmd.Process.Pid), "maps")
	if err != nil || !strings.Contains(string(maps), mapped) {
		t.Fatalf("%v: %s is not loaded, %v", cmd.Args, mapped, err)
	}
	h := New(time.Now)
	peer, err := h.Find(int32(cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer peer.PIDFD.Close()
	attrs, err := h.Inspect(context.Background(), peer)
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return attrs
}

func readAll(from interface{ Read([]byte) (int, error) }, into []byte) error {
	for n := 0; n < len(into); {
		m, err := from.Read(into[n:])
		if n += m; err != nil {
			return err
		}
	}
	return nil
}

// T3: a script is its interpreter, by whatever name it is called: it has neither the
// path nor the digest of its own file, and arguments and environment, which a process
// writes itself, are no attributes.
func TestThreatT03AScriptIsItsInterpreter(t *testing.T) {
	dir := t.TempDir()
	orders, other := filepath.Join(dir, "orders"), filepath.Join(dir, "other")
	const script = "#!/bin/sh\nread line; echo $line; read line\n"
	for _, name := range []string{orders, other} {
		if err := os.WriteFile(name, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	want := inspected(t, exec.Command("/bin/sh", other), shell)
	if want[attrPath] != shell || want[attrSHA256] == "" {
		t.Fatalf("a script: got %v, want the path and digest of %s", want, shell)
	}
	named := exec.Command("/bin/sh", other)
	named.Args[0] = orders
	for what, cmd := range map[string]*exec.Cmd{
		"run by its name": exec.Command(orders), "told to the interpreter": exec.Command("/bin/sh", orders), "under another name": named,
	} {
		cmd.Env = append(os.Environ(), "KITH_AS=orders", "WORKLOAD=orders")
		got := inspected(t, cmd, shell)
		if !maps.Equal(got, want) {
			t.Errorf("%s: got %v, want what every script of %s has: %v", what, got, shell, want)
		}
		for name, value := range got {
			if strings.Contains(value, "orders") {
				t.Errorf("%s: %s is %q, which the process wrote itself", what, name, value)
			}
		}
	}
}

// T3: code that is preloaded into a program is under that program's path and digest,
// as the kernel measures files and not memory. That is why neither suffices alone
// (registry.TestPoint6PathAndDigestNeverSufficeAlone): whoever preloads it is still
// the user and the unit that he is.
func TestThreatT03PreloadedCodeKeepsTheUser(t *testing.T) {
	library := ""
	for _, pattern := range []string{"/lib/*/libm.so.6", "/usr/lib/*/libm.so.6", "/lib64/libm.so.6"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 && library == "" {
			library = found[0]
		}
	}
	if library == "" {
		t.Fatal("there is no libm.so.6: libc6 is not installed")
	}
	cat, err := filepath.EvalSymlinks("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	plain := inspected(t, exec.Command(cat), cat)
	preloaded := exec.Command(cat)
	preloaded.Env = append(os.Environ(), "LD_PRELOAD="+library)
	got := inspected(t, preloaded, "libm")
	if !maps.Equal(got, plain) || got[attrUID] != registry.Int(int64(os.Getuid())) {
		t.Errorf("got %v, want what the program has without: %v", got, plain)
	}
	known := []string{attrPath, attrSHA256, attrUID, attrGID, attrUser, attrGroup, attrGroups, attrUnit, attrSlice}
	for name := range got {
		if !slices.Contains(known, name) {
			t.Errorf("%s is an attribute: is it one that a process can write itself?", name)
		}
	}
}
