package kith

import (
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxEndpoints  = 4096 // of one service; more are left out
	maxIdentities = 4096
)

// directory is who answers for each service and where: immutable.
type directory struct {
	services map[string]*destination
	names    []string // sorted
	known    bool     // a view has arrived
	balanced bool     // some service is called through a load balancer
}

// destination is one service as callers see it.
type destination struct {
	name       string
	protocol   Protocol
	identities map[spiffe.ID]struct{}
	endpoints  []string // host:port
	generation string   // names the identities in the keys of pooled connections
	proof      policy.Proof
}

// chart puts a directory view in force. Entries that make no sense are left
// out: a service with a bad identity list must not be reachable by accident.
func (w *Workload) chart(view *pb.DirectoryView) {
	next := &directory{services: make(map[string]*destination, len(view.GetEntries())), known: true}
	for _, entry := range view.GetEntries() {
		dest, err := parseEntry(entry)
		if err != nil {
			w.cfg.Log.Warn("directory entry left out", "service", clip(entry.GetService(), maxReportShort), "error", err)
			continue
		}
		next.services[dest.name] = dest
		next.names = append(next.names, dest.name)
		next.balanced = next.balanced || dest.proof.Via != ""
	}
	slices.Sort(next.names)
	w.directory.Store(next)
	w.targets.again()
	w.first.directory()
}

func parseEntry(entry *pb.DirectoryEntry) (*destination, error) {
	dest := &destination{
		name: entry.GetService(), protocol: Protocol(entry.GetProtocol()), identities: make(map[spiffe.ID]struct{}),
		proof: policy.ProofFromPB(entry.GetProof()),
	}
	if dest.name == "" || strings.ContainsAny(dest.name, "./:@%") {
		return nil, fault.Invalidf("name %q", dest.name)
	}
	if len(entry.GetIdentities()) > maxIdentities {
		return nil, fault.Invalidf("%d identities", len(entry.GetIdentities()))
	}
	sum := fnv.New64a()
	sorted := slices.Sorted(slices.Values(entry.GetIdentities()))
	for _, text := range sorted {
		id, err := spiffe.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("identity: %w", err)
		}
		dest.identities[id] = struct{}{}
		fmt.Fprintf(sum, "%s\n", text)
	}
	dest.generation = hex.EncodeToString(sum.Sum(nil))
	for _, endpoint := range entry.GetEndpoints() {
		host, port, err := net.SplitHostPort(endpoint.GetAddress())
		if err != nil || host == "" || len(dest.endpoints) >= maxEndpoints {
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			continue
		}
		if !slices.Contains(dest.endpoints, endpoint.GetAddress()) {
			dest.endpoints = append(dest.endpoints, endpoint.GetAddress())
		}
	}
	return dest, nil
}

// find is the service of that name with at least one endpoint.
func (d *directory) find(name string) (*destination, error) {
	dest, ok := d.services[name]
	switch {
	case !ok:
		return nil, &UnknownServiceError{Service: clip(name, maxReportShort), Nearest: fault.Nearest(name, d.names)}
	case len(dest.endpoints) == 0:
		return nil, &NoEndpointError{Service: name}
	}
	return dest, nil
}

// expects accepts the identities that may answer for the service.
func (d *destination) expects(address string) func(spiffe.ID) error {
	return func(id spiffe.ID) error {
		if _, ok := d.identities[id]; ok {
			return nil
		}
		return &IdentityError{Service: d.name, Address: address, Got: id}
	}
}

// Balanced is how a service is called whose callers' mutual TLS ends at a load
// balancer.
type Balanced struct {
	// Via is the load balancer, https://host[:port].
	Via string
	// Audience is whom proofs are for, and Proof the kind to prove by; Only says that
	// no other kind counts.
	Audience string
	Proof    ProofKind
	Only     bool
	// CA verifies the load balancer, in PEM, in place of whom this host trusts for the
	// web; empty: these.
	CA string
}

// Balanced says through which load balancer a service is to be called, if it says so
// itself: each request then has to prove whose it is ([Workload.SigningTransport]).
func (w *Workload) Balanced(service string) (Balanced, bool) {
	directory := w.directory.Load()
	if !directory.balanced {
		return Balanced{}, false
	}
	dest, ok := directory.services[strings.ToLower(service)]
	if !ok || dest.proof.Via == "" {
		return Balanced{}, false
	}
	p := dest.proof
	return Balanced{Via: p.Via, Audience: p.Audience, Proof: ProofKind(p.Kind()), Only: p.Accept != "", CA: p.CA}, true
}

// Services returns the names of the services this program can call, sorted.
func (w *Workload) Services() []string { return slices.Clone(w.directory.Load().names) }

// Find returns the protocol of a service this program can call. Its error is
// the one Dial would give before it dials.
func (w *Workload) Find(service string) (Protocol, error) {
	dest, err := w.directory.Load().find(service)
	if err != nil {
		return "", err
	}
	return dest.protocol, nil
}

// UnknownServiceError says that no service of that name is in the directory.
type UnknownServiceError struct {
	Service string
	Nearest string // the name that was probably meant, or ""
}

// Error names the service and what was probably meant.
func (e *UnknownServiceError) Error() string {
	if e.Nearest == "" {
		return fmt.Sprintf("unknown service %q", e.Service)
	}
	return fmt.Sprintf("unknown service %q, did you mean %q?", e.Service, e.Nearest)
}

// NoEndpointError says that a service is known but nothing answers for it.
type NoEndpointError struct{ Service string }

// Error names the service.
func (e *NoEndpointError) Error() string {
	return fmt.Sprintf("no endpoint of %s is registered", e.Service)
}

// IdentityError says that an endpoint proved an identity that may not answer
// for the service. Nothing was sent to it.
type IdentityError struct {
	Service string
	Address string
	Got     spiffe.ID
}

// Error names the endpoint and who it is.
func (e *IdentityError) Error() string {
	return fmt.Sprintf("%s at %s is %s, which may not answer for it", e.Service, e.Address, e.Got)
}
