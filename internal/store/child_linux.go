package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// maxSocketPath is what sun_path holds, less its final zero.
const maxSocketPath = 107

// childAttributes puts the member into its own process group, so that a ^C in
// the server's terminal reaches the server alone, and has the kernel kill it
// with the thread that started it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// stopped says whether a process stands still, by a signal or a debugger. It
// answers nothing then, and a wait for it would not end.
func stopped(pid int) bool {
	fields, err := stat(pid)
	return err == nil && (fields[0] == "T" || fields[0] == "t")
}

// parentOf is the process that a process is a child of; that of an orphan is
// another than who started it. One that has just ended has none, which is 0.
func parentOf(pid int) (int, error) {
	fields, err := stat(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(fields[1])
}

// stat is what the kernel says of a process: its state, its parent, and more.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	// pid (name) state …; a name may hold anything, so the last parenthesis counts.
	_, after, _ := strings.Cut(string(text[max(bytes.LastIndexByte(text, ')'), 0):]), ") ")
	fields := strings.Fields(after)
	if len(fields) < 2 {
		return nil, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	return fields, nil
}
