// Package server is the control plane: it admits nodes, signs what the rules
// allow, and pushes applied state to every agent - all from an immutable
// snapshot in memory. The store and the proofs are handed to it; it has no
// data plane and no console.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/spiffe"
)

// Auditor keeps the record of deeds; *audit.Log is one. Both methods return
// once the events are on disk. One that also has Broken() error says so when it
// will take no event any more; the server ends then.
type Auditor interface {
	Record(ctx context.Context, event audit.Event) error
	RecordAll(ctx context.Context, events []audit.Event) error
}

// Config is what a server is made of. Name, Store, KEK, JournalPath,
// AdminSocket, Now and Log must be given.
type Config struct {
	Name        string             // in its own ID, /kith/server/<name>
	TrustDomain spiffe.TrustDomain // needed at the first start; must be the store's later
	Version     string
	Dev         bool // declares services on first use, has the class dev

	Listen      string // host:port of the node API
	Address     string // host:port in join lines; empty: that of the listener
	AdminSocket string
	AdminListen string // host:port for admins elsewhere; empty: none
	Metrics     string // host:port; empty: none

	Store       registry.Store
	StoreHealth func() (state, reason string) // ok, read-only or away; nil: own probes only
	Verifiers   map[string]func(Desk) attest.Verifier

	Federation Federation
	OIDC       OIDC

	KEK          *keys.KEK
	JournalPath  string
	JournalBytes int64 // of a journal that is made; 0: as ca.Config says
	Lifetimes    ca.Lifetimes

	RS256Audiences []string // whose JWT-SVIDs are signed with RS256
	WIT            bool     // WIT-SVIDs are issued
	Audit          Auditor  // nil: no audit log

	// Attestations a second, as in api.PublicConfig; 0 is the default.
	AttestRate, AttestRateEach float64

	// Now must not follow a host's clock that jumps, as an obs.Clock does not;
	// ClockJump then says how far that one is off. Nil: nobody knows.
	Now       func() time.Time
	ClockJump func() time.Duration
	Log       *slog.Logger
}

// Server is a control plane. New makes one that listens, Run serves.
type Server struct {
	cfg     Config
	log     *slog.Logger
	id      spiffe.ID
	started time.Time

	current   atomic.Pointer[snapshot]
	arrived   *arrival
	changing  chan struct{} // capacity 1: holds the change under way
	hub       *hub
	directory *directory
	issued    *issuedTable
	seen      *seenTable
	events    *events
	store     storeWatch
	latest    atomic.Int64   // the latest time seen, Unix nanoseconds
	streams   sync.WaitGroup // receivers of sync streams
	stopping  chan struct{}  // closed when watches must end

	ca       *ca.CA
	source   *ownSource
	registry *prometheus.Registry
	metrics  *serverMetrics

	listener net.Listener
	admin    net.Listener
	scrape   *obs.Metrics

	remoteListener net.Listener // nil: no admins from elsewhere
	remote         *api.Remote

	exchange exchange // with other trust domains
	oidc     oidcFace // for receivers of tokens that are no workloads
}

// New brings the trust domain up from the store, makes it at the first start,
// and binds every address, so that whatever is wrong shows here.
func New(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := bootstrap(limit, cfg); err != nil {
		return nil, err
	}
	if err := checkClock(limit, cfg.Store, cfg.Now()); err != nil {
		return nil, err
	}
	first, items, err := load(limit, cfg.Store, cfg.Now())
	if err != nil {
		return nil, err
	}
	s, err := assemble(cfg, first)
	if err != nil {
		return nil, err
	}
	if err := s.open(limit, items); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

const (
	startLimit = 60 * time.Second
	rangeLimit = 30 * time.Second
)

func (c Config) validate() error {
	var faults []error
	if err := registry.ValidateName(c.Name); err != nil {
		faults = append(faults, fault.Invalidf("server.name: %w", err))
	}
	if c.Store == nil || c.KEK == nil || c.JournalPath == "" || c.Now == nil || c.Log == nil {
		faults = append(faults, fault.Invalidf("server: store, key encryption key, journal, clock and log must be given"))
	}
	if c.AdminSocket == "" {
		faults = append(faults, fault.Invalidf("server.socket: empty"))
	}
	return errors.Join(faults...)
}

// assemble makes the parts that need nothing from outside.
func assemble(cfg Config, first *snapshot) (*Server, error) {
	id, err := spiffe.NewID(first.trustDomain, "/kith/server/"+cfg.Name)
	if err != nil {
		return nil, fault.Invalidf("server.name: %w", err)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, id: id, started: cfg.Now(),
		arrived:   newArrival(),
		changing:  make(chan struct{}, 1),
		stopping:  make(chan struct{}),
		directory: newDirectory(cfg.Now, cfg.Log),
		issued:    newIssuedTable(),
		seen:      newSeenTable(),
		events:    newEvents(),
		registry:  obs.NewRegistry(),
	}
	s.hub = newHub(cfg.Now, first, s.nodeMoved)
	s.metrics = newMetrics(s.registry, s)
	s.current.Store(first)
	s.arrived.set(first.revision, first.version)
	s.confirm()
	return s, nil
}

// open makes the CA and binds the addresses.
func (s *Server) open(ctx context.Context, items []registry.Item) error {
	root, err := rootOf(items)
	if err != nil {
		return err
	}
	var ship func(context.Context, []ca.Entry) error
	if s.cfg.Audit != nil {
		ship = ca.ShipTo(s.cfg.Audit)
	} else {
		ship = func(context.Context, []ca.Entry) error { return nil }
	}
	s.ca, err = ca.New(ctx, ca.Config{
		TrustDomain: s.snap().trustDomain, Server: s.cfg.Name, Root: root, KEK: s.cfg.KEK,
		JournalPath: s.cfg.JournalPath, JournalBytes: s.cfg.JournalBytes, Ship: ship, Lifetimes: s.cfg.Lifetimes, RefreshHint: refreshHint,
		RS256Audiences: s.cfg.RS256Audiences, Issuer: s.cfg.OIDC.Issuer,
		Now: s.cfg.Now, Log: s.log, Metrics: s.registry,
	})
	if err != nil {
		return err
	}
	s.useJWTRing(s.snap())
	s.source = newOwnSource(s.ca, s.id, s.cfg.Now)
	if err := s.source.renew(ctx); err != nil {
		return fmt.Errorf("own SVID: %w", err)
	}
	if s.listener, err = listenTCP(s.cfg.Listen, s.cfg.Dev); err != nil {
		return err
	}
	if s.admin, err = listenUnix("server.socket", s.cfg.AdminSocket, 0o600); err != nil {
		return err
	}
	if s.cfg.AdminListen != "" {
		if s.remoteListener, err = listenTCP(s.cfg.AdminListen, s.cfg.Dev); err != nil {
			return err
		}
		s.remote = s.newRemote()
	}
	if err := s.openExchange(ctx); err != nil {
		return err
	}
	if err := s.openOIDC(); err != nil {
		return err
	}
	if s.cfg.Metrics == "" {
		return nil
	}
	s.scrape, err = obs.NewMetrics(obs.MetricsConfig{Address: s.cfg.Metrics, Gatherer: s.registry, Health: s.health, Log: s.log})
	return err
}

// Run serves until ctx ends. Parts stop in reverse: first nobody gets in any
// more, then the streams end, then what they stood on.
func (s *Server) Run(ctx context.Context) error {
	defer s.closeCA()
	parts := []run.Part{
		{Name: "ca", Run: s.ca.Run},
		{Name: "audit", Run: s.watchAudit},
		{Name: "flush", Run: s.flush},
		{Name: "store", Run: s.follow},
		{Name: "probe", Run: s.probe},
		{Name: "own svid", Run: s.source.run},
		{Name: "jwt keys", Run: s.keepJWTKeys},
		{Name: "directory", Run: s.runDirectory},
		{Name: "nodes", Run: s.serveNodes},
		{Name: "operators", Run: s.serveOperators},
	}
	if s.remoteListener != nil {
		// Before the operators, which end the watches of both when they stop.
		parts = slices.Insert(parts, len(parts)-1, run.Part{Name: "admins", Run: s.serveRemote})
	}
	parts = append(parts, s.exchangeParts()...)
	parts = append(parts, s.oidcParts()...)
	if s.scrape != nil {
		parts = append(parts, run.Part{Name: "metrics", Run: s.scrape.Run})
	}
	return run.Group(ctx, run.Config{Log: s.log}, parts...)
}

func (s *Server) serveNodes(ctx context.Context) error {
	config := spiffe.ServerTLSOptional(s.source, s.cfg.Now)
	config.NextProtos = []string{"h2"}
	face := api.NewPublic(api.PublicConfig{
		TrustDomain: s.snap().trustDomain, TLS: config, Admitter: s, Fleet: s, Log: s.log, Now: s.cfg.Now,
		AttestRate: s.cfg.AttestRate, AttestRateEach: s.cfg.AttestRateEach,
		// A connection must not outlive its certificate: agents renew at half
		// life and show the new one when they connect again.
		ConnectionAge: s.lifetime() * 2 / 5,
	})
	// Sync streams never end by themselves, and the face waits for its calls.
	defer context.AfterFunc(ctx, s.hub.stop)()
	err := face.Run(ctx, s.listener)
	s.streams.Wait()
	return err
}

func (s *Server) serveOperators(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { close(s.stopping) })()
	face := api.NewAdmin(api.AdminConfig{Operator: s, Admins: s, Federations: s, Log: s.log, UID: os.Getuid()})
	return face.Run(ctx, s.admin)
}

// Close frees what New took, for a server that was never run.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.listener, s.admin, s.remoteListener} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	errs = append(errs, s.exchange.close(), s.oidc.close())
	if s.scrape != nil {
		errs = append(errs, s.scrape.Close())
	}
	if s.ca != nil {
		errs = append(errs, s.ca.Close())
	}
	return errors.Join(errs...)
}

func (s *Server) closeCA() {
	if err := s.ca.Close(); err != nil {
		s.log.Warn("ca not closed", "error", err)
	}
}

// snap is the current snapshot; reading it takes no lock.
func (s *Server) snap() *snapshot { return s.current.Load() }

// TrustDomain is the trust domain it serves.
func (s *Server) TrustDomain() spiffe.TrustDomain { return s.snap().trustDomain }

// Addr is where nodes reach it, with the port it really got.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// MetricsAddr is where metrics are, empty without any.
func (s *Server) MetricsAddr() string {
	if s.scrape == nil {
		return ""
	}
	return s.scrape.Addr()
}

// Pin is the root's pin, as in join lines.
func (s *Server) Pin() spiffe.Pin { return spiffe.PinOf(s.ca.Root()) }

// address is what a join line names.
func (s *Server) address() string {
	if s.cfg.Address != "" {
		return s.cfg.Address
	}
	return s.Addr()
}

// lifetime is how long node SVIDs live.
func (s *Server) lifetime() time.Duration { return s.ca.Lifetimes().Leaf }
