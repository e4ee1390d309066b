package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// SmallDisk gives a directory of the host a file system of its own that holds so
// many MiB; it is made before anything is written there.
func (h *Host) SmallDisk(name string, mebibytes int) {
	h.t.Helper()
	dir := filepath.Join(h.Dir, name)
	options := fmt.Sprintf("size=%dm,mode=0700", mebibytes)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		h.t.Fatalf("mount a small file system: %v: %s", err, out)
	}
	h.t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
}

// FillDisk takes all space below a directory of the host; the returned function
// gives it back.
func (h *Host) FillDisk(name string) (free func()) {
	h.t.Helper()
	path := filepath.Join(h.Dir, name, "ballast")
	f, err := os.Create(path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 512; {
		switch _, err := f.Write(make([]byte, size)); {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			h.t.Fatalf("fill %s: %v", path, err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			h.t.Errorf("free the disk: %v", err)
		}
	}
}

// FailSync makes every fsync and fdatasync of a process fail with EIO for as
// long as it lives, and returns when that is so. The way back is to kill the
// process: a tracer that is killed lets it go on as if nothing had been.
func (h *Host) FailSync(pid int) {
	h.t.Helper()
	tracer := h.Start("strace", "-f", "-qq", "-p", strconv.Itoa(pid),
		"-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO", "-o", filepath.Join(h.Dir, "log", fmt.Sprintf("strace-%d.log", pid)))
	Eventually(h.t, Soon, fmt.Sprintf("process %d is traced", pid), func() error {
		if tracer.Exited() {
			return nil // the process has ended: nothing of it can be synced either
		}
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil || len(tasks) == 0 {
			return errors.Join(fmt.Errorf("process %d has no tasks", pid), err)
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err == nil && strings.Contains(string(text), "TracerPid:\t0\n") {
				return fmt.Errorf("%s is not traced", task)
			}
		}
		return nil
	})
}
