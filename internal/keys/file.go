package keys

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kith-id/kith/internal/fault"
)

// FileKEK reads the key encryption key in the file at path, 32 random bytes,
// and makes the file with mode 0400 if there is none. It refuses a file that
// others could have read or replaced: one that is no regular file, belongs to
// another user than this process or root, or has any permission for group or
// others.
func FileKEK(path string) (*KEK, error) {
	kek, err := OpenFileKEK(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return kek, err
	}
	if err := createKEK(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create key file %s: %w", path, err)
	}
	return OpenFileKEK(path) // our own, or that of whoever was faster
}

// OpenFileKEK is [FileKEK] for a key that must exist, because something is
// sealed under it already: a missing file is a NotFound error.
func OpenFileKEK(path string) (*KEK, error) {
	// O_NOFOLLOW and O_NONBLOCK: neither a link nor a pipe can lead or hold us.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fault.Hint(fault.Deniedf("key file %s is a symbolic link", path), "name the file itself")
	}
	if errors.Is(err, fs.ErrNotExist) {
		err := fault.Wrap(fault.NotFound, fmt.Errorf("read key file: %w", err))
		return nil, fault.Hint(err, "restore it from your backup; without it the sealed keys are lost")
	}
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if err := checkFile(path, info); err != nil {
		return nil, err
	}
	secret := make([]byte, keySize)
	if _, err := io.ReadFull(file, secret); err != nil || info.Size() != keySize {
		clear(secret)
		err := fault.Invalidf("key file %s has %d bytes, not %d", path, info.Size(), keySize)
		return nil, fault.Hint(err, "restore it from your backup; without it the sealed keys are lost")
	}
	return &KEK{kind: kindFile, secret: secret}, nil
}

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fault.Deniedf("key file %s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		err := fault.Deniedf("key file %s has mode %04o, so others may read it", path, mode)
		return fault.Hint(err, "chmod 0400 %s, and think about who has read it", path)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fault.Deniedf("key file %s: its owner cannot be told", path)
	}
	if uid := int(stat.Uid); uid != os.Geteuid() && uid != 0 {
		err := fault.Deniedf("key file %s belongs to user %d", path, uid)
		return fault.Hint(err, "chown %d %s", os.Geteuid(), path)
	}
	return nil
}

// createKEK writes a temporary file and links it into place, so that a crash
// leaves no short key and a race has one winner.
func createKEK(path string) error {
	secret := make([]byte, keySize)
	defer clear(secret)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	temporary, err := os.CreateTemp(dir, ".kek-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(secret)
	if err == nil {
		err = temporary.Chmod(0o400)
	}
	if err == nil {
		err = temporary.Sync()
	}
	if err := errors.Join(err, temporary.Close()); err != nil {
		return err
	}
	if err := os.Link(temporary.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
