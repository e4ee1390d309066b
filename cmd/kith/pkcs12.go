package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// maxPasswordFile bounds --pkcs12's file.
const maxPasswordFile = 4 << 10

// readPassword reads the first line of a file. One that everybody may read would
// open what is readable to few.
func readPassword(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("--pkcs12: %w", err)
	case info.Size() > maxPasswordFile:
		return "", fault.Invalidf("--pkcs12: %s has %d bytes, at most %d are read", path, info.Size(), maxPasswordFile)
	case info.Mode().Perm()&0o004 != 0:
		return "", fault.Hint(fault.Deniedf("--pkcs12: everybody may read %s", path), "chmod o-r %s", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("--pkcs12: %w", err)
	}
	password, _, _ := strings.Cut(string(text), "\n")
	if password = strings.TrimSuffix(password, "\r"); password == "" {
		return "", fault.Hint(fault.Invalidf("--pkcs12: the first line of %s is empty", path), "put a password there: Java opens no store without one")
	}
	return password, nil
}

// storeFiles are the identity and whom to trust as PKCS #12, which is what Java
// calls a key store and a trust store.
func storeFiles(svid *spiffe.X509SVID, bundle *spiffe.Bundle, password string) ([]pemFile, error) {
	der, err := svid.MarshalKey()
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("own key: %w", err)
	}
	identity, err := pkcs12.Modern.Encode(key, svid.Certificates[0], svid.Certificates[1:], password)
	if err != nil {
		return nil, fmt.Errorf("write the identity as PKCS #12: %w", err)
	}
	trust, err := pkcs12.Modern.EncodeTrustStore(bundle.Roots(), password)
	if err != nil {
		return nil, fmt.Errorf("write the roots as PKCS #12: %w", err)
	}
	return []pemFile{{"identity.p12", identity, true}, {"trust.p12", trust, false}}, nil
}
