package spiffe

import (
	"errors"
	"fmt"
	"strings"
)

// ID is a SPIFFE ID: a trust domain and a path, such as
// "spiffe://acme.example/eks/shop/orders". Only this package makes values, so
// an ID that is not zero is well formed and has one spelling; two IDs are the
// same identity exactly if they are ==. It can be used as a map key.
type ID struct {
	uri  string
	host int // where the trust domain ends in uri
}

// ParseID reads a SPIFFE ID. There is one spelling of each ID: percent
// encoding, upper case in scheme or trust domain, empty and dot segments, a
// trailing slash, port, user, query and fragment are all refused, and so is
// anything over 2048 bytes.
func ParseID(uri string) (ID, error) {
	if len(uri) > maxURI {
		return ID{}, fmt.Errorf("SPIFFE ID has %d bytes, at most %d are allowed", len(uri), maxURI)
	}
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok {
		return ID{}, fmt.Errorf("SPIFFE ID %q does not begin with %q", clip(uri), scheme)
	}
	name, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		name, path = rest[:i], rest[i:]
	}
	if err := validateTrustDomain(name); err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", clip(uri), err)
	}
	if err := ValidatePath(path); err != nil {
		return ID{}, fmt.Errorf("SPIFFE ID %q: %w", clip(uri), err)
	}
	return ID{uri: uri, host: len(scheme) + len(name)}, nil
}

// NewID joins a trust domain and a path, which is empty or begins with a
// slash.
func NewID(td TrustDomain, path string) (ID, error) {
	if td.IsZero() {
		return ID{}, errors.New("trust domain is empty")
	}
	if err := ValidatePath(path); err != nil {
		return ID{}, err
	}
	if n := len(scheme) + len(td.name) + len(path); n > maxURI {
		return ID{}, fmt.Errorf("SPIFFE ID has %d bytes, at most %d are allowed", n, maxURI)
	}
	return ID{uri: scheme + td.name + path, host: len(scheme) + len(td.name)}, nil
}

// TrustDomain is the trust domain the ID belongs to.
func (id ID) TrustDomain() TrustDomain {
	if id.IsZero() {
		return TrustDomain{}
	}
	return TrustDomain{id.uri[len(scheme):id.host]}
}

// Path is the path with its leading slash, or "" for the ID of a trust domain.
func (id ID) Path() string { return id.uri[id.host:] }

// String is the whole URI, or "" for the zero ID.
func (id ID) String() string { return id.uri }

// IsZero reports whether id is the zero ID, which identifies nobody.
func (id ID) IsZero() bool { return id.uri == "" }

// ValidatePath checks the path of an ID: empty, or one or more segments, each
// after a slash.
func ValidatePath(path string) error {
	if path == "" {
		return nil
	}
	if path[0] != '/' {
		return errors.New("path does not begin with a slash")
	}
	start := 1
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if i == start && i == len(path) {
			return errors.New("path ends in a slash")
		}
		if err := ValidateSegment(path[start:i]); err != nil {
			return err
		}
		start = i + 1
	}
	return nil
}

// ValidateSegment checks one segment of a path: not empty, not "." or "..",
// and only of [a-zA-Z0-9.-_].
func ValidateSegment(segment string) error {
	switch segment {
	case "":
		return errors.New("path has an empty segment")
	case ".", "..":
		return fmt.Errorf("path has the segment %q", segment)
	}
	for i := range len(segment) {
		if c := segment[i]; !isTrustDomainChar(c) && (c < 'A' || c > 'Z') {
			return fmt.Errorf("path segment has %q at byte %d, only letters, digits, dot, dash and underscore are allowed", c, i)
		}
	}
	return nil
}

// clip keeps a hostile string short in an error.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
