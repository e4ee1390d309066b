package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kith-id/kith/internal/fault"
)

// maxLinks is how many links are followed on the way to one file.
const maxLinks = 16

// onTheWay looks at each directory and link on the way to a file, from the root, and
// at the file, until one is enough.
func onTheWay(path string, lstat func(string) (fs.FileInfo, error), look func(at string, info fs.FileInfo) (enough bool, err error)) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	at, rest, links := "/", strings.Split(strings.TrimPrefix(path, "/"), "/"), 0
	for {
		info, err := lstat(at)
		if err != nil {
			return err
		}
		if enough, err := look(at, info); enough || err != nil {
			return err
		}
		if isLink(info) {
			if links++; links > maxLinks {
				return errors.New("too many links")
			}
			to, err := os.Readlink(at)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(at), to)
			}
			at, rest = "/", append(strings.Split(strings.TrimPrefix(filepath.Clean(to), "/"), "/"), rest...)
			continue
		}
		if len(rest) == 0 {
			return nil
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:]
	}
}

func isLink(info fs.FileInfo) bool { return info.Mode().Type() == fs.ModeSymlink }

func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// ownWay refuses a directory that a link of another user leads to: it could lead us,
// who may be root, to any directory, at any time. It returns what is there.
func ownWay(path string, self int, lstat func(string) (fs.FileInfo, error)) (is fs.FileInfo, err error) {
	err = onTheWay(path, lstat, func(at string, info fs.FileInfo) (bool, error) {
		is = info
		if owner := ownerOf(info); isLink(info) && owner != 0 && owner != self {
			return true, fault.Hint(fault.Deniedf("directory %s: %s is a link of user %d, who could lead it anywhere", path, at, owner), "name a way without links")
		}
		return false, nil
	})
	return is, err
}

// openOwnWay opens the directory that ownWay has looked at, and no other that was put
// in its place meanwhile.
func openOwnWay(path string) (*os.Root, error) {
	is, err := ownWay(path, os.Geteuid(), os.Lstat)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	opened, err := root.Stat(".")
	if err == nil && !os.SameFile(is, opened) {
		err = fault.Deniedf("directory %s was exchanged while it was opened", path)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}
