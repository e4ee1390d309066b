package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// The files of an admin SVID; the key is 0600 in a directory 0700.
const (
	adminSVID   = "svid.pem"
	adminKey    = "key.pem"
	adminBundle = "bundle.pem"

	maxAdminFile = 64 << 10
)

// write keeps the SVID. The key goes first: with an older chain it is refused
// as not belonging to it, and never is it lost.
func (s adminSource) write(dir string) error {
	key, err := keyPEM(s.svid)
	if err != nil {
		return err
	}
	for _, f := range []pemFile{
		{adminKey, key, true},
		{adminBundle, bundlePEM(s.bundle), false},
		{adminSVID, chainPEM(s.svid), false},
	} {
		if err := replaceFile(filepath.Join(dir, f.name), f); err != nil {
			return fmt.Errorf("keep the admin SVID: %w", err)
		}
	}
	return nil
}

// loadAdmin reads the files that write wrote.
func loadAdmin(dir string) (adminSource, error) {
	const next = "get a line from an admin, or on the server's host: kith ids admins add NAME --role ROLE; then kith join --admin LINE"
	chain, err := readPEM(filepath.Join(dir, adminSVID), "CERTIFICATE")
	if errors.Is(err, fs.ErrNotExist) {
		return adminSource{}, fault.Hint(fault.NotFoundf("no admin SVID in %s", dir), next)
	}
	if err != nil {
		return adminSource{}, err
	}
	path := filepath.Join(dir, adminKey)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return adminSource{}, fault.Hint(fault.Deniedf("%s can be read by others (mode %04o)", path, info.Mode().Perm()),
			"chmod 600 %s; if somebody may have read it: kith ids admins remove", path)
	}
	key, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return adminSource{}, err
	}
	roots, err := readPEM(filepath.Join(dir, adminBundle), "CERTIFICATE")
	if err != nil {
		return adminSource{}, err
	}
	svid, err := spiffe.ParseX509SVID(chain, key)
	if err != nil {
		return adminSource{}, fault.Hint(fault.Invalidf("admin SVID in %s: %w", dir, err), next)
	}
	certs, err := x509.ParseCertificates(roots)
	if err != nil {
		return adminSource{}, fault.Hint(fault.Invalidf("roots in %s: %w", dir, err), next)
	}
	return adminSource{svid, spiffe.NewBundle(svid.ID.TrustDomain(), 0, 0, certs...)}, nil
}

// readPEM is the DER of every block of one type, one after the other.
func readPEM(path, kind string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxAdminFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxAdminFile {
		return nil, fault.Invalidf("%s has more than %d bytes", path, maxAdminFile)
	}
	var der []byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != kind {
			return nil, fault.Invalidf("%s: a block of type %q, want %q", path, block.Type, kind)
		}
		der = append(der, block.Bytes...)
	}
	if len(der) == 0 {
		return nil, fault.Invalidf("%s: no %s in it", path, kind)
	}
	return der, nil
}

// makePrivate makes a directory that only this user enters, or accepts one that
// nobody else can write to.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("directory of the admin SVID: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fault.Hint(fault.Deniedf("%s can be written by others (mode %04o)", dir, info.Mode().Perm()), "chmod go-w %s", dir)
	}
	return nil
}
