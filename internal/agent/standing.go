package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	nodePrefix   = "/kith/node/"
	serverPrefix = "/kith/server/"
	maxSmallFile = 1 << 20
)

// standing is the node's place in a trust domain; immutable.
type standing struct {
	server   string
	pin      spiffe.Pin
	node     string
	class    string
	svid     *spiffe.X509SVID // nil before the node was admitted
	bundle   *spiffe.Bundle   // nil likewise
	obtained time.Time
}

func (s *standing) admitted() bool { return s.svid != nil && s.bundle != nil }

func (s *standing) expired(now time.Time) bool {
	return !s.admitted() || !now.Before(s.svid.Expiry())
}

func (s *standing) domain() spiffe.TrustDomain {
	if !s.admitted() {
		return spiffe.TrustDomain{}
	}
	return s.svid.ID.TrustDomain()
}

// standingFile is the standing as it lies in node.json.
type standingFile struct {
	Server      string    `json:"server"`
	Pin         string    `json:"pin"`
	TrustDomain string    `json:"trust_domain,omitempty"`
	Node        string    `json:"node,omitempty"`
	Class       string    `json:"class,omitempty"`
	Chain       []byte    `json:"chain,omitempty"`
	Bundle      []byte    `json:"bundle,omitempty"`
	Obtained    time.Time `json:"obtained"`
}

func (s *standing) marshal() ([]byte, error) {
	file := standingFile{Server: s.server, Pin: s.pin.String(), Node: s.node, Class: s.class, Obtained: s.obtained}
	if s.admitted() {
		jwks, err := s.bundle.Marshal()
		if err != nil {
			return nil, err
		}
		file.TrustDomain, file.Chain, file.Bundle = s.domain().String(), s.svid.MarshalChain(), jwks
	}
	return json.MarshalIndent(file, "", "  ")
}

// readStanding reads node.json; a missing file is a nil standing.
func readStanding(f files, key crypto.Signer) (*standing, error) {
	data, err := f.read(f.node(), maxSmallFile)
	if data == nil || err != nil {
		return nil, err
	}
	var file standingFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.node(), err)
	}
	s := &standing{server: file.Server, node: file.Node, class: file.Class, obtained: file.Obtained}
	if s.pin, err = spiffe.ParsePin(file.Pin); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.node(), err)
	}
	if len(file.Chain) == 0 {
		return s, nil
	}
	td, err := spiffe.ParseTrustDomain(file.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.node(), err)
	}
	if s.bundle, err = spiffe.ParseBundle(td, file.Bundle); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.node(), err)
	}
	if s.svid, err = withKey(file.Chain, key); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.node(), err)
	}
	return s, nil
}

// withKey joins a chain and the node key.
func withKey(chain []byte, key crypto.Signer) (*spiffe.X509SVID, error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(pkcs8)
	return spiffe.ParseX509SVID(chain, pkcs8)
}

// admit makes the standing that a server's answer gives, and refuses an answer
// that is not about this node's key, not for a node, or of another trust domain
// than the server's own.
func (s *standing) admit(in *pb.Admitted, server spiffe.ID, key crypto.Signer, now time.Time) (*standing, error) {
	td := server.TrustDomain()
	bundle, err := spiffe.ParseBundle(td, in.GetBundle().GetJwks())
	if err != nil {
		return nil, fmt.Errorf("bundle from the server: %w", err)
	}
	var chain []byte
	for _, der := range in.GetChain() {
		chain = append(chain, der...)
	}
	svid, err := withKey(chain, key)
	if err != nil {
		return nil, fmt.Errorf("node svid from the server: %w", err)
	}
	want := nodePrefix + in.GetNode()
	if svid.ID.TrustDomain() != td || svid.ID.Path() != want {
		return nil, fmt.Errorf("server %s gave this node the svid of %s", server, svid.ID)
	}
	lookup := func(d spiffe.TrustDomain) (*spiffe.Bundle, bool) { return bundle, d == td }
	if _, err := spiffe.Verify(svid.Certificates, lookup, now); err != nil {
		return nil, clockError(svid.Certificates[0], now, fmt.Errorf("node svid from the server: %w", err))
	}
	return &standing{
		server: s.server, pin: s.pin, node: in.GetNode(), class: in.GetClass(),
		svid: svid, bundle: bundle, obtained: now,
	}, nil
}

// clockError names the clocks where a certificate's validity is what failed.
func clockError(cert *x509.Certificate, now time.Time, err error) error {
	var skew string
	switch {
	case cert == nil:
		return err
	case now.Before(cert.NotBefore):
		skew = "this clock is at least " + cert.NotBefore.Sub(now).Round(time.Second).String() + " behind the server's"
	case now.After(cert.NotAfter):
		skew = "this clock is at least " + now.Sub(cert.NotAfter).Round(time.Second).String() +
			" ahead of the server's, or the server has not renewed its certificate"
	default:
		return err
	}
	return fault.Hint(fmt.Errorf("%s: %w", skew, err), "compare the clocks of both hosts: timedatectl")
}

// readKey reads the node key, or makes it and keeps it before anything is
// proven with it: a token that is bound to a lost key is a lost token.
func readKey(f files) (crypto.Signer, error) {
	data, err := f.read(f.key(), maxSmallFile)
	if err != nil {
		return nil, err
	}
	if data != nil {
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fault.Invalidf("%s holds no key", f.key())
		}
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fault.Invalidf("read %s: %w", f.key(), err)
		}
		key, ok := parsed.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fault.Invalidf("%s holds a %T", f.key(), parsed)
		}
		return key, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make node key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make node key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := errors.Join(f.write(f.key(), text), f.sync()); err != nil {
		return nil, fmt.Errorf("keep node key: %w", err)
	}
	return key, nil
}

func newCSR(key crypto.Signer) ([]byte, error) {
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return csr, nil
}

// errNotJoined is the start of an agent that has never been admitted and has
// nothing to be admitted with.
func errNotJoined() error {
	return fault.Hint(fault.Wrap(fault.NotFound, errors.New("this node has not joined a trust domain")),
		"on the server: kith nodes add NAME --class CLASS; then here the line it prints: kith join ...")
}
