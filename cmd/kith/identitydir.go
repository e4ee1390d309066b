package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// currentLink leads to the directory of the identity in force; versionPrefix
// begins the names of those directories.
const (
	currentLink   = "current"
	versionPrefix = ".identity-"
)

// identityDir is a directory that other programs read an identity from. All files
// of one identity are in a directory of their own, and `current` leads to the one
// in force: one rename replaces key and certificates together. The plain names
// beside it lead through `current`.
type identityDir struct {
	path string
	// mode is of the files that hold the key; directories are entered by whoever
	// may read those. uid and gid own all of it, -1 for who we are.
	mode     os.FileMode
	uid, gid int
	// password is of the stores in PKCS #12; without one there are none.
	password string
}

// newIdentityDir reads --mode and --owner.
func newIdentityDir(path, mode, owner string) (identityDir, error) {
	d := identityDir{path: filepath.Clean(path), mode: 0o600, uid: -1, gid: -1}
	if mode != "" {
		bits, err := strconv.ParseUint(mode, 8, 32)
		if err != nil || bits&^0o640 != 0 || bits&0o400 == 0 {
			return d, fault.Hint(fault.Invalidf("--mode %q: a key may be read by its owner and its group, and by nobody else", mode), "0600, 0640, 0400 or 0440")
		}
		d.mode = os.FileMode(bits)
	}
	name, group, grouped := strings.Cut(owner, ":")
	if name != "" {
		u, err := user.Lookup(name)
		if err != nil {
			return d, fault.Hint(fault.Invalidf("--owner: there is no user %q", name), "USER or USER:GROUP, as in chown")
		}
		if d.uid, err = strconv.Atoi(u.Uid); err != nil {
			return d, fmt.Errorf("uid of %s: %w", name, err)
		}
	}
	if grouped {
		g, err := user.LookupGroup(group)
		if err != nil {
			return d, fault.Hint(fault.Invalidf("--owner: there is no group %q", group), "USER, USER:GROUP or :GROUP, as in chown")
		}
		if d.gid, err = strconv.Atoi(g.Gid); err != nil {
			return d, fmt.Errorf("gid of %s: %w", group, err)
		}
	}
	return d, nil
}

// files are the files of an identity as they are kept here.
func (d identityDir) files(svid *spiffe.X509SVID, bundle *spiffe.Bundle) ([]pemFile, error) {
	files, err := identityFiles(svid, bundle)
	if err != nil || d.password == "" {
		return files, err
	}
	stores, err := storeFiles(svid, bundle, d.password)
	return append(files, stores...), err
}

// identityFiles are the files of an identity; what holds the key is private.
func identityFiles(svid *spiffe.X509SVID, bundle *spiffe.Bundle) ([]pemFile, error) {
	key, err := keyPEM(svid)
	if err != nil {
		return nil, err
	}
	return []pemFile{
		{"svid.pem", chainPEM(svid), false},
		{"chain.pem", certificatesPEM(derOf(svid)[1:]), false},
		{"bundle.pem", bundlePEM(bundle), false},
		{"key.pem", key, true},
		{"identity.pem", append(append([]byte(nil), key...), chainPEM(svid)...), true},
	}, nil
}

// write puts files in force: a new directory is filled and on disk before
// `current` leads to it. The one of before stays until the next time, for who has
// just followed the link; older ones go.
//
// Whoever owns the directory may exchange what is in it at any moment, and we may
// be root. So nothing in it is named but relative to the opened directory, beyond
// which no link leads, and owner and mode are given to what is open, not to names.
func (d identityDir) write(files []pemFile) error {
	if err := d.prepare(); err != nil {
		return err
	}
	root, err := openOwnWay(d.path)
	if err != nil {
		return err
	}
	return errors.Join(d.replace(root, files), root.Close())
}

func (d identityDir) replace(root *os.Root, files []pemFile) error {
	former, err := root.Readlink(currentLink)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not ours: %w", filepath.Join(d.path, currentLink), err)
	}
	version := versionPrefix + strings.ToLower(rand.Text()[:12])
	if err := d.fill(root, version, files); err != nil {
		return err
	}
	if err := link(root, version, currentLink); err != nil {
		return err
	}
	for _, f := range files {
		want := filepath.Join(currentLink, f.name)
		if at, err := root.Readlink(f.name); err == nil && at == want {
			continue
		}
		if err := link(root, want, f.name); err != nil {
			return err
		}
	}
	return sweep(root, version, former)
}

// prepare makes the directory. In one that others may write, what we put there
// could be exchanged.
func (d identityDir) prepare() error {
	if _, err := ownWay(d.path, os.Geteuid(), os.Lstat); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.MkdirAll(filepath.Dir(d.path), 0o755)
	if err == nil {
		err = d.make()
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fault.Invalidf("%s is not a directory", d.path)
	case info.Mode().Perm()&0o002 != 0 || info.Mode().Perm()&0o020 != 0 && d.gid < 0:
		return fault.Hint(fault.Deniedf("directory %s can be written by others", d.path), "chmod go-w %s", d.path)
	case ok && st.Uid != 0 && int(st.Uid) != os.Getuid() && int(st.Uid) != d.uid:
		return fault.Hint(fault.Deniedf("directory %s belongs to user %d", d.path, st.Uid), "choose another one, or --owner")
	}
	return nil
}

// make makes the directory where there is none. It is given to its owner only while
// it is empty: who may write above it could have put another in its place.
func (d identityDir) make() error {
	parent, err := openOwnWay(filepath.Dir(d.path))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := parent.Mkdir(filepath.Base(d.path), 0o700); err != nil {
		return err
	}
	made, err := parent.Open(filepath.Base(d.path))
	if err != nil {
		return err
	}
	if names, err := made.Readdirnames(1); len(names) > 0 || !errors.Is(err, io.EOF) {
		return errors.Join(fault.Deniedf("directory %s was exchanged while it was made", d.path), made.Close())
	}
	return errors.Join(d.give(made, d.dirMode()), made.Close())
}

// dirMode lets in who may read the key.
func (d identityDir) dirMode() os.FileMode { return 0o700 | d.mode&0o040 | d.mode&0o040>>2 }

func (d identityDir) give(file *os.File, mode os.FileMode) error {
	if d.uid >= 0 || d.gid >= 0 {
		if err := file.Chown(d.uid, d.gid); err != nil {
			return fault.Hint(fmt.Errorf("--owner: %w", err), "only root gives files away")
		}
	}
	return file.Chmod(mode)
}

// fill makes a version, complete and on disk.
func (d identityDir) fill(root *os.Root, version string, files []pemFile) (err error) {
	if err := root.Mkdir(version, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.RemoveAll(version))
		}
	}()
	dir, err := root.OpenRoot(version)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, f := range files {
		mode := os.FileMode(0o644)
		if f.private {
			mode = d.mode
		}
		if err := d.put(dir, f.name, f.text, mode); err != nil {
			return err
		}
	}
	self, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.give(self, d.dirMode()), self.Sync(), self.Close())
}

func (d identityDir) put(dir *os.Root, name string, text []byte, mode os.FileMode) error {
	file, err := dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err == nil {
		err = d.give(file, mode)
	}
	return errors.Join(err, file.Sync(), file.Close())
}

// clear removes what write has put there.
func (d identityDir) clear() error {
	root, err := openOwnWay(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.empty(root), root.Close())
}

func (d identityDir) empty(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		at, err := root.Readlink(e.Name())
		if err == nil && at == filepath.Join(currentLink, e.Name()) || e.Name() == currentLink && strings.HasPrefix(at, versionPrefix) {
			if err := root.Remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return errors.Join(sweep(root, "", ""), syncDir(root))
}

// link makes name lead to target, in one step.
func link(root *os.Root, target, name string) error {
	tmp := versionPrefix + "link-" + strings.ToLower(rand.Text()[:12])
	if err := root.Symlink(target, tmp); err != nil {
		return err
	}
	if err := root.Rename(tmp, name); err != nil {
		return errors.Join(err, root.Remove(tmp))
	}
	return syncDir(root)
}

// sweep removes versions but those, and what a crash has left.
func sweep(root *os.Root, keep ...string) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), versionPrefix) || e.Name() == keep[0] || e.Name() == keep[1] {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
