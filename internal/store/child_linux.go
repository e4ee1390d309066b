package store

import "syscall"

// maxSocketPath is what sun_path holds, less its final zero.
const maxSocketPath = 107

// childAttributes puts the member into its own process group, so that a ^C in
// the server's terminal reaches the server alone, and has the kernel kill it
// with the thread that started it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
