package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/kith-id/kith/internal/fault"
)

// generation is an identity whose every file says which one it is of.
func generation(n int) []pemFile {
	text := []byte(strconv.Itoa(n))
	return []pemFile{{"svid.pem", text, false}, {"key.pem", text, true}, {"identity.pem", bytes.Repeat(text, 2), true}}
}

func dirOf(t *testing.T) identityDir {
	t.Helper()
	d, err := newIdentityDir(filepath.Join(t.TempDir(), "id"), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A reader that follows `current` once never sees the key of one identity and the
// certificates of another, however often they are replaced.
func TestReadersNeverSeeAMixedIdentity(t *testing.T) {
	t.Parallel()
	d := dirOf(t)
	if err := d.write(generation(0)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	reads := make([]int, 4)
	for i := range reads {
		readers.Go(func() {
			for ctx.Err() == nil {
				at, err := os.Readlink(filepath.Join(d.path, currentLink))
				if err != nil {
					t.Errorf("follow current: %v", err)
					return
				}
				key, err1 := os.ReadFile(filepath.Join(d.path, at, "key.pem"))
				svid, err2 := os.ReadFile(filepath.Join(d.path, at, "svid.pem"))
				whole, err := os.ReadFile(filepath.Join(d.path, "identity.pem"))
				if errors.Is(errors.Join(err1, err2, err), fs.ErrNotExist) {
					continue // it was too slow: two replacements went by
				}
				if err1 != nil || err2 != nil || !bytes.Equal(key, svid) || err != nil || len(whole) == 0 || !bytes.Equal(whole[:len(whole)/2], whole[len(whole)/2:]) {
					t.Errorf("key of %s with the certificate of %s; in one file %s, %v", key, svid, whole, err)
					return
				}
				reads[i]++
			}
		})
	}
	for n := 1; n <= 50; n++ {
		if err := d.write(generation(n)); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	readers.Wait()
	for i, n := range reads {
		if n == 0 {
			t.Errorf("reader %d read nothing", i)
		}
	}
	if left, err := filepath.Glob(filepath.Join(d.path, versionPrefix+"*")); err != nil || len(left) != 2 {
		t.Errorf("%d versions are left, %v; want the one in force and the one before", len(left), err)
	}
}

func TestModesOfIdentityFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode           string
		key, svid, dir fs.FileMode
	}{
		{"", 0o600, 0o644, 0o700}, {"0640", 0o640, 0o644, 0o750}, {"0400", 0o400, 0o644, 0o700},
	} {
		d, err := newIdentityDir(filepath.Join(t.TempDir(), "a", "id"), c.mode, "")
		if err == nil {
			err = d.write(generation(1))
		}
		if err != nil {
			t.Fatalf("mode %q: %v", c.mode, err)
		}
		for name, want := range map[string]fs.FileMode{".": c.dir, currentLink: c.dir, "key.pem": c.key, "identity.pem": c.key, "svid.pem": c.svid} {
			info, err := os.Stat(filepath.Join(d.path, name))
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("mode %q: %s has %v, %v, want %v", c.mode, name, info.Mode().Perm(), err, want)
			}
		}
	}
	for _, mode := range []string{"0644", "0660", "0200", "600x", "07777"} {
		if _, err := newIdentityDir("x", mode, ""); !fault.Is(err, fault.Invalid) {
			t.Errorf("mode %s: got %v, want it refused", mode, err)
		}
	}
	for _, owner := range []string{"no-such-user", ":no-such-group"} {
		if _, err := newIdentityDir("x", "", owner); !fault.Is(err, fault.Invalid) {
			t.Errorf("owner %s: got %v, want it refused", owner, err)
		}
	}
}

// Whatever a crash has left, the next write makes good; what is not ours stays.
func TestIdentityDirAfterACrash(t *testing.T) {
	t.Parallel()
	d := dirOf(t)
	if err := os.MkdirAll(filepath.Join(d.path, versionPrefix+"half"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{versionPrefix + "half/key.pem": "0", "svid.pem": "of before there were links", "mine.pem": "mine"} {
		if err := os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(d.path, versionPrefix+"link-x")); err != nil {
		t.Fatal(err)
	}
	if err := d.write(generation(1)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"svid.pem": "1", "key.pem": "1", "mine.pem": "mine"} {
		if got, err := os.ReadFile(filepath.Join(d.path, name)); string(got) != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(d.path, versionPrefix+"*")); len(left) != 1 {
		t.Errorf("left: %v, want the one in force", left)
	}
}

func TestIdentityDirThatOthersMayWriteIsRefused(t *testing.T) {
	t.Parallel()
	d := dirOf(t)
	if err := os.Mkdir(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.path, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := d.write(generation(1)); !fault.Is(err, fault.Denied) {
		t.Errorf("a directory everybody may write: got %v, want it refused", err)
	}
	if err := os.Chmod(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(d.path, currentLink), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.write(generation(1)); err == nil {
		t.Error("a directory called current was taken for ours")
	}
}

// A directory is named as people write it, and by links of one's own.
func TestIdentityDirByAnyName(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Symlink("real", "link"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"tls/", "./a//b/../c", "real", "link", filepath.Join(dir, "whole")} {
		d, err := newIdentityDir(path, "", "")
		if err != nil {
			t.Fatal(err)
		}
		for n := range 2 {
			if err := d.write(generation(n)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		if key, err := os.ReadFile(filepath.Join(path, "key.pem")); string(key) != "1" {
			t.Errorf("%s: %q, %v", path, key, err)
		}
		if err := d.clear(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	gone, err := newIdentityDir("gone", "", "")
	if err != nil || gone.clear() != nil {
		t.Errorf("where there is nothing: %v, %v", err, gone.clear())
	}
}

// A program that was not told is told again, until there is something newer.
func TestHookIsTriedUntilItWorks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := &app{stderr: os.Stderr}
	log := slog.New(slog.DiscardHandler)
	again := hook{command: "echo x >> " + dir + "/tries; test $(wc -l < " + dir + "/tries) -ge 2"}
	again.until(t.Context(), a, log, make(chan struct{}))
	if tries, err := os.ReadFile(filepath.Join(dir, "tries")); string(tries) != "x\nx\n" {
		t.Errorf("tries %q, %v, want two", tries, err)
	}
	newer := make(chan struct{})
	close(newer)
	hook{command: "false"}.until(t.Context(), a, log, newer)

	told := exec.CommandContext(t.Context(), "sleep", "60") // not ourselves: other tests pass signals on to their children
	if err := told.Start(); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "pid")
	if err := os.WriteFile(pidFile, []byte(strconv.Itoa(told.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (hook{signal: "usr2", pidFile: pidFile}).run(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	err := told.Wait()
	if status, ok := told.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGUSR2 {
		t.Errorf("the program ended with %v, want SIGUSR2", err)
	}
	for _, text := range []string{"", "x", "-1", "0", "1"} {
		if err := os.WriteFile(pidFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (hook{signal: "HUP", pidFile: pidFile}).run(t.Context(), a); !fault.Is(err, fault.Invalid) {
			t.Errorf("pid file %q: got %v, want it refused", text, err)
		}
	}
}

// Whoever owns the directory may exchange what is in it at any moment; nothing of
// that makes us, who may be root, create or change anything elsewhere.
func TestOwnerOfTheDirectoryLeadsNowhere(t *testing.T) {
	t.Parallel()
	d, elsewhere := dirOf(t), t.TempDir()
	if err := d.write(generation(0)); err != nil {
		t.Fatal(err)
	}
	shadow := filepath.Join(elsewhere, "shadow")
	if err := errors.Join(os.WriteFile(shadow, []byte("secret"), 0o600), os.Chmod(elsewhere, 0o711)); err != nil {
		t.Fatal(err)
	}
	for _, trap := range []func(at string) error{
		func(at string) error { // the directory that is being filled leads elsewhere
			return errors.Join(os.Rename(at, filepath.Join(d.path, "aside")), os.Symlink(elsewhere, at), os.RemoveAll(filepath.Join(d.path, "aside")))
		},
		func(at string) error { // a file in it does
			svid := filepath.Join(at, "svid.pem")
			return errors.Join(os.Remove(svid), os.Symlink(shadow, svid))
		},
	} {
		ctx, stop := context.WithCancel(t.Context())
		var owner sync.WaitGroup
		owner.Go(func() {
			for ctx.Err() == nil {
				versions, _ := filepath.Glob(filepath.Join(d.path, versionPrefix+"[a-z0-9]*"))
				for _, at := range versions {
					if info, err := os.Lstat(at); err == nil && info.IsDir() {
						_ = trap(at) // mostly it is too late
					}
				}
			}
		})
		for n := range 150 {
			_ = d.write(generation(n)) // which may fail
		}
		stop()
		owner.Wait()
	}
	entries, err := os.ReadDir(elsewhere)
	if err != nil || len(entries) != 1 {
		t.Errorf("elsewhere there are %v, %v, want shadow alone", entries, err)
	}
	for path, want := range map[string]os.FileMode{elsewhere: 0o711, shadow: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}
