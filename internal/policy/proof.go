package policy

import (
	"crypto/x509"
	"net/url"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const maxAudience = 512

// Proof is how callers of a service are known whose mutual TLS ends before it, at a
// load balancer: each request proves whose it is. The zero Proof says nothing.
type Proof struct {
	// Audience is whom proofs are for.
	Audience string
	// Accept is the kind of proof that counts, signature or wpt; empty: either.
	Accept string
	// Via is https://host[:port], the load balancer that callers go through; empty:
	// they are not told.
	Via string
	// CA verifies Via, in PEM, in place of the web's authorities.
	CA string
}

// Kind is how a caller proves who is free to choose.
func (p Proof) Kind() string {
	if p.Accept == "" {
		return proofSignature
	}
	return p.Accept
}

const proofSignature, proofToken = "signature", "wpt"

// ProofFromPB reads it off the wire; it is checked with its service.
func ProofFromPB(m *pb.ServiceProof) Proof {
	return Proof{Audience: m.GetAudience(), Accept: m.GetAccept(), Via: m.GetVia(), CA: m.GetCa()}
}

// PB is the proof on the wire, nil for none.
func (p Proof) PB() *pb.ServiceProof {
	if p == (Proof{}) {
		return nil
	}
	return &pb.ServiceProof{Audience: p.Audience, Accept: p.Accept, Via: p.Via, Ca: p.CA}
}

// Balancer is where callers go, for a proof that says so.
func (p Proof) Balancer() (*url.URL, error) {
	u, err := url.Parse(p.Via)
	if err != nil || len(p.Via) > maxExternalURL || u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || strings.ContainsAny(p.Via, "?#") {
		return nil, fault.Hint(fault.Invalidf("%q is no https address without a path", clip(p.Via)), "as in https://lb.acme.example")
	}
	return &url.URL{Scheme: "https", Host: u.Host}, nil
}

const audienceForm = "as in audience: https://orders.acme.example"

func noAudience() error {
	return fault.Hint(fault.Invalidf("empty: nobody knows whom proofs are for"), audienceForm)
}

func (s Service) checkProof(at string, f *faults) {
	p := s.Proof
	if p == (Proof{}) {
		return
	}
	at += ".proof"
	switch {
	case s.Protocol == TCP:
		f.add(at, fault.Invalidf("a tcp service has no requests that could prove whose they are"))
	case p.Audience == "":
		f.add(at+".audience", noAudience())
	case len(p.Audience) > maxAudience || strings.ContainsFunc(p.Audience, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ',' }):
		f.add(at+".audience", fault.Hint(fault.Invalidf("%q is no name of a receiver", clip(p.Audience)), audienceForm))
	}
	if !slices.Contains([]string{"", proofSignature, proofToken}, p.Accept) {
		f.add(at+".accept", fault.Hint(fault.Invalidf("unknown kind of proof %q", clip(p.Accept)), "kinds are signature and wpt; either if left out"))
	}
	if p.Via != "" {
		if _, err := p.Balancer(); err != nil {
			f.add(at+".via", err)
		}
	}
	switch {
	case p.CA == "":
	case p.Via == "":
		f.add(at+".ca", fault.Hint(fault.Invalidf("there is nobody whom it would verify"), "as in via: https://lb.acme.example"))
	case len(p.CA) > maxExternalCA || !x509.NewCertPool().AppendCertsFromPEM([]byte(p.CA)):
		f.add(at+".ca", fault.Invalidf("holds no certificate in PEM"))
	}
}

// lintProofs warns of proofs that count for more than they seem to.
func (v *validation) lintProofs(out *finder) {
	by := map[string]string{}
	for _, name := range v.names() {
		s := v.set.Services[name]
		if s.Proof == (Proof{}) {
			continue
		}
		if v.set.Unprovable {
			out.found = append(out.found, Unprovable(name))
		}
		at := "services." + name + ".proof"
		if first, taken := by[s.Proof.Audience]; taken {
			out.add(lintAudience, Warning, at+".audience", "", "proofs for %s are for %s too", name, first)
		} else {
			by[s.Proof.Audience] = name
		}
		switch {
		case s.Protocol == GRPC && s.Proof.Accept == proofSignature:
			out.add(lintStreams, Warning, at+".accept", "accept: wpt", "no stream gets through: a signature needs the whole body first")
		case s.Protocol == HTTP && s.Proof.Accept != proofSignature:
			out.add(lintProof, Note, at+".accept", "accept: signature", "a wpt counts: whoever intercepts one can send another method, query or body to its path")
		}
	}
}

// Unprovable is the finding about a service that wants proofs where no WIT-SVIDs are
// issued.
func Unprovable(service string) Finding {
	return Finding{
		ID: lintUnprovable, Severity: Warning, At: "services." + service + ".proof", Fix: "features.wit: true",
		What: "the server issues no WIT-SVIDs, so no proof counts and nobody gets in by one",
	}
}
