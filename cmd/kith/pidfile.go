package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kith-id/kith/internal/fault"
)

// maxPIDFile is more than a number and a line end need.
const maxPIDFile = 64

// readPID reads the number of a process. Who may write the file may have put
// anything in its place, also what never ends.
func readPID(path string) (int, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("--pid-file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPIDFile))
	if err != nil {
		return 0, fmt.Errorf("--pid-file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 { // 0 and below are groups, 1 is init
		return 0, fault.Invalidf("--pid-file %s holds no number of a process", path)
	}
	return pid, nil
}

// tell sends a signal to the process that a file names. We may be root: whoever
// else can write the file must not choose more than their own processes.
func tell(path string, signal syscall.Signal) error {
	owner, err := pidFileOwner(path, os.Geteuid(), os.Lstat)
	if err != nil {
		return err
	}
	pid, err := readPID(path)
	if err != nil {
		return err
	}
	process, err := os.FindProcess(pid) // held: another that gets the number is not told
	if err != nil {
		return fmt.Errorf("--pid-file: process %d: %w", pid, err)
	}
	defer process.Release() //nolint:errcheck // nothing is left to do about it
	if err := mayTell(owner, pid, path); err != nil {
		return err
	}
	if err := process.Signal(signal); err != nil {
		return fmt.Errorf("signal process %d: %w", pid, err)
	}
	return nil
}

// mayTell refuses a process of another user than the one who can write the file.
func mayTell(owner, pid int, path string) error {
	if owner == 0 || owner == os.Geteuid() {
		return nil
	}
	uid, err := userOf(pid)
	if err != nil {
		return fmt.Errorf("--pid-file %s: user of process %d: %w", path, pid, err)
	}
	if uid != owner {
		return fault.Hint(fault.Deniedf("--pid-file %s is in the hands of user %d, and names process %d, which is user %d's", path, owner, pid, uid),
			"have the program write it to a directory that only root may write")
	}
	return nil
}

// pidFileOwner is whose word a file is: of the first user on the way to it, from
// the root, who is neither root nor we, for all below is theirs to exchange.
func pidFileOwner(path string, self int, lstat func(string) (fs.FileInfo, error)) (owner int, err error) {
	err = onTheWay(path, lstat, func(at string, info fs.FileInfo) (bool, error) {
		owner = ownerOf(info)
		if owner == 0 && !isLink(info) && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return true, fault.Hint(fault.Deniedf("others may write %s", at), "chmod go-w %s", at)
		}
		return owner != 0 && owner != self, nil
	})
	if err != nil {
		return 0, fmt.Errorf("--pid-file: %w", err)
	}
	return owner, nil
}
