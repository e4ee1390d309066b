package ca

import (
	"os"
	"syscall"
)

// syncFile syncs data only: the journal's size never changes, and so the file
// system's own journal is spared.
type syncFile struct{ *os.File }

// Sync returns once all that was written is on disk.
func (f syncFile) Sync() error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return err
		}
	}
}
