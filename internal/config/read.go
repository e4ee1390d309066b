package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/kith-id/kith/internal/fault"
)

// maxFiles bounds how many files one apply reads.
const maxFiles = 1000

// ReadState reads applied state from files, directories (their *.yaml and *.yml,
// not below) and "-" for stdin, and reports the faults of all of them at once.
func ReadState(names []string, stdin io.Reader) (State, error) {
	var files []string
	for _, name := range names {
		more, err := expand(name)
		if err != nil {
			return State{}, err
		}
		files = append(files, more...)
	}
	if len(files) > maxFiles {
		return State{}, fault.Invalidf("%d files: at most %d at once", len(files), maxFiles)
	}
	var s State
	var faults []error
	size := 0
	for _, name := range files {
		name, data, err := readNamed(name, stdin)
		if size += len(data); size > MaxFileSize {
			return State{}, fault.Invalidf("%s: all files together are larger than %d MiB", name, MaxFileSize>>20)
		}
		if err == nil {
			err = s.add(name, data)
		}
		if err == nil {
			err = s.readKeyFiles()
		}
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil {
		return State{}, err
	}
	return s, nil
}

// expand lists the files a name stands for.
func expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil || !info.IsDir() {
		return []string{name}, nil // opening it says what is wrong
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, fmt.Errorf("read state from a directory: %w", err)
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fault.NotFoundf("%s holds no *.yaml file", name)
	}
	return files, nil
}
