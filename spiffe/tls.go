package spiffe

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// Source gives the current SVID and bundles of one identity. Both methods
// return at once from memory, may be called from any goroutine, and show a
// rotation from the next call on. An error from X509SVID fails the handshake
// that asked, so a source without an identity serves nobody.
type Source interface {
	X509SVID() (*X509SVID, error)
	Bundle(TrustDomain) (*Bundle, bool)
}

// ServerTLS is mutual TLS for a server: TLS 1.3, its certificate taken from
// src in each handshake, and a client that shows a valid SVID whose ID accept
// allows; a nil accept allows any valid SVID. A client without a certificate
// is told so (alert 116, certificate_required). The caller may add NextProtos.
func ServerTLS(src Source, now func() time.Time, accept func(ID) error) *tls.Config {
	config := base(now)
	config.ClientAuth = tls.RequireAnyClientCert
	config.GetCertificate = serverCertificate(src)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := Verify(state.PeerCertificates, src.Bundle, config.Time())
		if err != nil {
			return err
		}
		if accept == nil {
			return nil
		}
		return accept(id)
	}
	return config
}

// ServerTLSOptional is ServerTLS for a port that also serves strangers, who
// have no SVID: a client certificate is asked for, not required, and verified
// in full if it comes. [PeerID] tells the two kinds of peer apart.
func ServerTLSOptional(src Source, now func() time.Time) *tls.Config {
	config := base(now)
	config.ClientAuth = tls.RequestClientCert
	config.GetCertificate = serverCertificate(src)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil
		}
		_, err := Verify(state.PeerCertificates, src.Bundle, config.Time())
		return err
	}
	return config
}

// ClientTLS is mutual TLS for a client: TLS 1.3, its certificate taken from
// src in each handshake, and a server that shows a valid SVID whose ID expect
// allows. Host names mean nothing here: expect decides whom the client talks
// to, and a nil expect allows nobody.
func ClientTLS(src Source, now func() time.Time, expect func(ID) error) *tls.Config {
	config := base(now)
	skipHostNames(config)
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return ownCertificate(src)
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		id, err := Verify(state.PeerCertificates, src.Bundle, config.Time())
		if err != nil {
			return err
		}
		return expected(expect, id)
	}
	return config
}

// EndpointTLS is TLS for a client without an identity of its own, which talks to
// one server only: the one with a valid SVID of exactly this ID, by the bundle
// that there is of its trust domain at the time of the handshake. It is the
// client's half of the https_spiffe profile (SPIFFE Federation 5.2.2).
func EndpointTLS(bundle func(TrustDomain) (*Bundle, bool), now func() time.Time, id ID) *tls.Config {
	config := base(now)
	skipHostNames(config)
	config.VerifyConnection = func(state tls.ConnectionState) error {
		shown, err := Verify(state.PeerCertificates, bundle, config.Time())
		switch {
		case err != nil:
			return err
		case shown != id:
			return fmt.Errorf("server is %s, and %s is expected", shown, id)
		}
		return nil
	}
	return config
}

// PeerID is the ID of the verified peer of a connection made with one of this
// package's configurations. It is an error if the handshake is not complete or
// the peer has shown no certificate.
func PeerID(state tls.ConnectionState) (ID, error) {
	if !state.HandshakeComplete {
		return ID{}, errors.New("handshake is not complete")
	}
	if len(state.PeerCertificates) == 0 {
		return ID{}, errors.New("peer has shown no certificate")
	}
	return checkLeaf(state.PeerCertificates[0])
}

// base is what all configurations share. Tickets are off because a resumed
// session is not verified with the current bundle. The key exchanges are
// those we allow; crypto/tls prefers the post-quantum one.
func base(now func() time.Time) *tls.Config {
	if now == nil {
		now = time.Now
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		SessionTicketsDisabled: true,
		Time:                   now,
	}
}

// skipHostNames turns off the verification of crypto/tls, which wants a host
// name; an SVID has none. VerifyConnection does all of it instead, and runs in
// every handshake. This is the only place of the product that may do so.
func skipHostNames(config *tls.Config) { config.InsecureSkipVerify = true }

func serverCertificate(src Source) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return ownCertificate(src) }
}

func ownCertificate(src Source) (*tls.Certificate, error) {
	svid, err := src.X509SVID()
	switch {
	case err != nil:
		return nil, fmt.Errorf("own SVID: %w", err)
	case svid == nil || len(svid.Certificates) == 0:
		return nil, errors.New("own SVID: there is none")
	}
	return svid.TLSCertificate(), nil
}

func expected(expect func(ID) error, id ID) error {
	if expect == nil {
		return fmt.Errorf("server is %s, and none is expected", id)
	}
	return expect(id)
}
