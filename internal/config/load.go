package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"

	"github.com/kith-id/kith/internal/fault"
)

// Load reads and validates the kith.yaml at path over Default. A file that is
// not there is a NotFound error.
func Load(path string) (File, error) {
	data, err := readFile(path)
	if err != nil {
		return File{}, err
	}
	return Parse(path, data)
}

// LoadOptional is Load, but a file that is not there is an empty one. It is for
// the default path; a path somebody named must exist.
func LoadOptional(path string) (File, error) {
	f, err := Load(path)
	if fault.Is(err, fault.NotFound) {
		return Default(), nil
	}
	return f, err
}

// Parse reads and validates the bytes of a kith.yaml; name stands for the file
// in errors.
func Parse(name string, data []byte) (File, error) {
	d := &decoder{file: name}
	docs, err := d.documents(data)
	if err != nil {
		return File{}, err
	}
	f := Default()
	if len(docs) > 1 {
		d.addf(docs[1], "a second document (---): kith.yaml is one")
	}
	if len(docs) > 0 {
		const applied = "it is applied state; put it in its own file and run: kith apply -f FILE"
		d.object(docs[0], reflect.ValueOf(&f).Elem(), map[string]string{
			"nodes": applied, "identities": applied, "providers": applied, "services": applied, "rules": applied, "federation": applied, "owner": applied,
		})
	}
	if err := d.err(); err != nil {
		return File{}, fault.Hint(err, "kith config check %s", name)
	}
	if err := f.Validate(); err != nil {
		return File{}, fault.Hint(fault.Invalidf("%s: %w", name, err), "kith config check %s", name)
	}
	return f, nil
}

// readNamed reads what the user named, "-" for stdin, and says how messages call it.
func readNamed(name string, stdin io.Reader) (shown string, data []byte, err error) {
	if name == "-" {
		data, err = readAll("stdin", stdin)
		return "stdin", data, err
	}
	data, err = readFile(name)
	return name, data, err
}

// readFile reads at most MaxFileSize bytes. It works on pipes such as /dev/fd/3.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Wrap(fault.NotFound, err)
		}
		return nil, err
	}
	defer f.Close()
	return readAll(path, f)
}

// readAll reads at most MaxFileSize bytes of r.
func readAll(name string, r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > MaxFileSize {
		return nil, fault.Invalidf("%s: larger than %d MiB", name, MaxFileSize>>20)
	}
	return data, nil
}
