package store

import (
	"bytes"
	"fmt"
	"os"
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
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// pid (name) state …; a name may hold anything, so the last parenthesis counts.
	_, after, ok := bytes.Cut(text[max(bytes.LastIndexByte(text, ')'), 0):], []byte(") "))
	return ok && len(after) > 0 && (after[0] == 'T' || after[0] == 't')
}
