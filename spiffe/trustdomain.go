package spiffe

import (
	"errors"
	"fmt"
)

const (
	scheme            = "spiffe://"
	maxURI            = 2048 // SPIFFE-ID 2.3
	maxTrustDomainLen = 255  // SPIFFE-ID 2.3
)

// TrustDomain is the name of a trust domain, such as "acme.example". Only this
// package makes values, so one that is not zero is well formed. It can be
// compared and used as a map key.
type TrustDomain struct{ name string }

// ParseTrustDomain checks the bare name of a trust domain: 1 to 255 characters
// of [a-z0-9.-_]. Upper case is refused, not folded.
//
// SPIFFE gives the name no further shape: "1.2.3.4" and "a_b..c" are trust
// domains too. crypto/x509 reads no certificate whose URI has a host with an
// empty label, so such a name can be parsed here but not carried by an
// X.509-SVID in Go.
func ParseTrustDomain(name string) (TrustDomain, error) {
	if err := validateTrustDomain(name); err != nil {
		return TrustDomain{}, err
	}
	return TrustDomain{name}, nil
}

// String is the bare name: "acme.example".
func (t TrustDomain) String() string { return t.name }

// ID is the trust domain's own SPIFFE ID, which has no path:
// "spiffe://acme.example". The ID of the zero TrustDomain is zero.
func (t TrustDomain) ID() ID {
	if t.IsZero() {
		return ID{}
	}
	return ID{uri: scheme + t.name, host: len(scheme) + len(t.name)}
}

// IsZero reports whether t is the zero TrustDomain, which names none.
func (t TrustDomain) IsZero() bool { return t.name == "" }

func validateTrustDomain(name string) error {
	switch {
	case name == "":
		return errors.New("trust domain is empty")
	case len(name) > maxTrustDomainLen:
		return fmt.Errorf("trust domain has %d bytes, at most %d are allowed", len(name), maxTrustDomainLen)
	}
	for i := range len(name) {
		if c := name[i]; !isTrustDomainChar(c) {
			return fmt.Errorf("trust domain has %q at byte %d, only a-z, 0-9, dot, dash and underscore are allowed", c, i)
		}
	}
	return nil
}

func isTrustDomainChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}
