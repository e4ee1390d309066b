// Package agent is the program that runs once on every node: it proves the node
// to the server, says which process is which workload, hands out their SVIDs,
// and brings policy and directory to the enforcement points - also while the
// server is away. It decides no request and signs nothing but its own proofs.
package agent

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/credentials"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/decisionlog"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// Config is what an agent needs.
type Config struct {
	// StateDir holds the node key and what is cached of the server. It is made
	// with mode 0700 if it is missing.
	StateDir string
	// Socket is the path workloads connect to.
	Socket string

	// KEK seals every file of StateDir but the lock; nil leaves them plain, mode
	// 0600. Where the node key is plain still all are read, and sealed from then on;
	// after that plain ones are refused.
	KEK *keys.KEK

	// AuthzSocket is the path proxies and applications ask on over HTTP; empty for none.
	AuthzSocket string
	// AuthzListen is the port of loopback for proxies that can ask on no unix socket;
	// empty for none. Processes must be attest.Dialing.
	AuthzListen string
	// AuthZENURL is where AuthZEN clients ask by https; empty for nowhere.
	AuthZENURL string

	// Documents are where applications look for decisions in OPA's tree, besides
	// below kith.
	Documents []extauthz.Document

	// Broker is where others may fetch SVIDs on behalf of workloads, and who.
	Broker Broker

	// Server is host:port of the server, and Pin the root it must show in the
	// first contact. Empty and zero: as at the last start.
	Server string
	Pin    spiffe.Pin
	// Join proves the node the first time, by the method JoinMethod. Nil for a
	// node that has joined before.
	Join       attest.Prover
	JoinMethod string
	// Rejoin proves the node by its key when it was away longer than its SVID.
	Rejoin func(key crypto.Signer) attest.Prover

	// Inspector measures workloads; Processes tells processes apart; and
	// Credentials capture who connects to the socket, as attest.Peered.
	Inspector   attest.Inspector
	Processes   attest.Processes
	Credentials credentials.TransportCredentials
	// Objects finds the pods that brokers refer to; nil where no kubelet is known.
	Objects attest.Objects

	// Declare makes the server know a service name; set in kith dev only.
	Declare func(ctx context.Context, name string) error

	// KeyNetworks and KeyHosts may be asked for the keys of providers besides
	// public addresses; KeyHosts over plain HTTP too. KeyRoots verify providers;
	// nil are this host's.
	KeyNetworks []netip.Prefix
	KeyHosts    []string
	KeyRoots    *x509.CertPool

	// Decisions is where decisions are kept besides; the zero value is nowhere. Its
	// Version, Now and Log are the agent's.
	Decisions decisionlog.Config

	// WIT turns on the WIT profile of the Workload API.
	WIT bool

	// Streams is how many streams one user may hold open; 0 is 512.
	Streams int
	Version string
	Now     func() time.Time
	Log     *slog.Logger
	// Metrics is where the agent registers what it measures; nil for nowhere.
	Metrics prometheus.Registerer
}

func (c Config) check() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fault.Invalidf("agent: %s is not set", what))
		}
	}
	need(c.StateDir != "", "the state directory")
	need(c.Socket != "", "the socket")
	need(c.Inspector != nil && c.Processes != nil && c.Credentials != nil, "the inspector")
	need(c.Rejoin != nil, "the proof to rejoin with")
	need(c.Join == nil || c.JoinMethod != "", "the method to join with")
	need(c.Now != nil && c.Log != nil, "clock or log")
	errs = append(errs, checkSocketPath(c.Socket))
	for _, path := range []string{c.AuthzSocket, c.Broker.Socket} {
		if path != "" {
			errs = append(errs, checkSocketPath(path))
		}
	}
	if c.AuthzListen != "" {
		errs = append(errs, config.CheckLoopback(c.AuthzListen))
	}
	if c.AuthZENURL != "" {
		errs = append(errs, config.CheckAuthZENURL(c.AuthZENURL))
	}
	return errors.Join(errs...)
}

// files is where the agent keeps what must outlive it.
type files struct {
	dir string
	kek *keys.KEK // nil: nothing is sealed
	all bool      // under the KEK everything is, so what is plain is nobody's
}

func (f files) lock() string    { return filepath.Join(f.dir, "agent.lock") }
func (f files) key() string     { return filepath.Join(f.dir, "node.key") }
func (f files) node() string    { return filepath.Join(f.dir, "node.json") }
func (f files) state() string   { return filepath.Join(f.dir, "state.cache") }
func (f files) journal() string { return filepath.Join(f.dir, "state.journal") }
func (f files) svids() string   { return filepath.Join(f.dir, "svids.cache") }
func (f files) points() string  { return filepath.Join(f.dir, "points.cache") }

// write replaces a file in one step: after a crash it is the old one or the new
// one, never half of it.
func (f files) write(path string, data []byte) error {
	if f.kek != nil {
		var err error
		if data, err = f.kek.Seal(purpose(path), data); err != nil {
			return err
		}
	}
	tmp, err := os.CreateTemp(f.dir, ".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// sync makes the names of what was written as durable as its content.
func (f files) sync() error {
	dir, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// read reads a file of at most limit bytes; a missing one is nil without an error.
func (f files) read(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fault.Invalidf("%s has %d bytes, at most %d are read", path, info.Size(), limit)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return f.open(path, data)
}

// sealAll seals what is from before the KEK; from then on a plain file is refused:
// whoever can write here and has not the KEK could put any policy there. The node key
// comes last, when it is read, and says that all else is done.
func (f *files) sealAll() error {
	if f.kek == nil {
		return nil
	}
	key, err := os.ReadFile(f.key())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil && !keys.Sealed(key) {
		_, err = f.read(f.node(), maxSmallFile)
		for path, limit := range map[string]int64{f.state(): maxCache, f.svids(): maxCache, f.points(): maxSmallFile} {
			_, _ = f.read(path, limit) // a cache that cannot be read is refused later
		}
		if err == nil {
			_, err = f.read(f.key(), maxSmallFile)
		}
		if err != nil {
			return err
		}
	}
	f.all = true
	return nil
}

// open unseals what write sealed. A plain file is from before the KEK, and is sealed
// now, unless all are already.
func (f files) open(path string, data []byte) ([]byte, error) {
	switch sealed := keys.Sealed(data); {
	case f.kek == nil && sealed:
		return nil, fault.Hint(fault.Invalidf("%s is sealed, and this agent has no key encryption key", path), "set agent.kek_file in kith.yaml to the file it was sealed with")
	case f.kek == nil:
		return data, nil
	case sealed:
		return f.kek.Open(purpose(path), data)
	case f.all:
		return nil, fault.Hint(fault.Invalidf("%s is not sealed, and all that this agent keeps is", path), "somebody else put it there: move it away")
	default:
		return data, f.write(path, data)
	}
}

// purpose binds a sealed file to its name: none can stand in for another.
func purpose(path string) string { return "agent " + filepath.Base(path) }

// sweep removes what a crash left of write.
func (f files) sweep() {
	left, _ := filepath.Glob(filepath.Join(f.dir, ".tmp-*"))
	for _, path := range left {
		os.Remove(path)
	}
}
