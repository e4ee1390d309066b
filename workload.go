package kith

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/wimse"
	"github.com/kith-id/kith/spiffe"
)

const (
	defaultWait  = 30 * time.Second
	absentAgent  = 2 * time.Second // how long Open waits for an agent that does not answer at all
	firstCatalog = 2 * time.Second // how long Open waits for the directory after the identity
)

// Config says how a program attaches to its agent. The zero value is a program
// that both calls and serves, under the identity its node gives it.
type Config struct {
	// Socket is the agent's socket: a path, or unix:///path. Empty: the
	// environment (SPIFFE_ENDPOINT_SOCKET, then KITH_AGENT_SOCKET), then the
	// default places.
	Socket string
	// As is the service name this program claims; the agent checks the claim.
	// Empty for none, which is right under `kith run` and for systemd units.
	As string
	// Service is the service this program answers for. Empty: As, or the only
	// service its identity belongs to.
	Service string
	// Serves asks for the policy of the own services, Calls for the directory.
	// With neither set both are on.
	Serves, Calls bool
	// Advertise is where callers reach this program, host:port each. Serve
	// fills it in when it is empty.
	Advertise []string
	// Wait is how long Open waits for the first identity; 30 s when zero.
	Wait time.Duration
	// Version is reported to the agent.
	Version string
	// Now is the clock that decides; time.Now when nil.
	Now func() time.Time
	// Log takes events; nothing is logged when nil.
	Log *slog.Logger
}

// Workload is an attached program: its identity, its policy and its directory,
// all kept current until Close. It is a [spiffe.Source]. All methods may be
// called from any goroutine.
type Workload struct {
	cfg    Config
	socket string
	conn   *grpc.ClientConn

	identity  atomic.Pointer[identity]
	policy    atomic.Pointer[ruling]
	directory atomic.Pointer[directory]
	keys      map[string]*spiffe.JWKSet // of providers of user tokens, by URL; owned by attach

	externals externals // who must agree to what policy allows

	live     live          // exchanges decided again at each change of policy
	refusals offTime       // of handshakes, by the time
	accepts  conns         // accepted connections, verified again at each change of bundle
	dials    conns         // dialled ones, likewise
	reports  reports       // decisions on their way to the agent
	flows    flows         // what was decided, counted
	calls    caller        // the client half
	targets  resolvers     // gRPC clients
	first    firsts        // what Open waits for
	wires    *sync.Pool    // space under TLS connections
	wits     wits          // tokens bound to a key, once they are wanted
	proofs   wimse.Replays // proofs that callers have shown, on whichever listener

	asking     chan struct{} // a nudge: external decisions of another policy
	nudged     chan struct{} // another identity, or a policy that looks at the time
	renewal    atomic.Pointer[chan struct{}]
	advertised chan struct{} // a nudge: addresses changed
	missing    chan *pb.MissingKey
	addresses  atomic.Pointer[[]string]

	stop context.CancelFunc
	done sync.WaitGroup
}

// Open attaches to the agent and returns when the first identity and policy
// have arrived. It fails at once when the agent refuses, after two seconds
// when there is no agent, and in any case when ctx ends.
func Open(ctx context.Context, cfg Config) (*Workload, error) {
	cfg = cfg.withDefaults()
	socket, err := findSocket(cfg.Socket)
	if err != nil {
		return nil, err
	}
	if err := checkOwners(socket, os.Geteuid()); err != nil {
		return nil, err
	}
	conn, err := dialAgent(socket)
	if err != nil {
		return nil, err
	}
	w := &Workload{
		cfg: cfg, socket: socket, conn: conn, wires: newWirePool(),
		asking: make(chan struct{}, 1), nudged: make(chan struct{}, 1), advertised: make(chan struct{}, 1), missing: make(chan *pb.MissingKey, maxMissing),
	}
	renewal := make(chan struct{})
	w.renewal.Store(&renewal)
	w.first.init()
	w.live.init()
	w.accepts.init(maxOfOnePeer)
	w.dials.init(0)
	w.reports.init()
	w.flows.init()
	w.calls.init(w)
	w.targets.init()
	w.wits.init(func() { w.live.decideAgain(w) })
	w.policy.Store(&ruling{})
	w.directory.Store(&directory{})
	w.Advertise(cfg.Advertise...)

	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.done.Go(func() { w.attach(life) })
	w.done.Go(func() { w.watchClock(life) })
	w.done.Go(func() { w.watchExternals(life) })
	w.done.Go(func() { w.followWITs(life) })
	if err := w.awaitFirst(ctx); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

func (c Config) withDefaults() Config {
	if !c.Serves && !c.Calls {
		c.Serves, c.Calls = true, true
	}
	if c.Wait <= 0 {
		c.Wait = defaultWait
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Close ends the attachment: the claim, the identity stream and idle client
// connections. It waits for everything Open started. Connections handed out by
// Dial or a Listener stay with who has them.
func (w *Workload) Close() error {
	w.stop()
	err := w.conn.Close()
	w.done.Wait()
	w.externals.close()
	w.calls.close()
	return err
}

// X509SVID is the current identity. It fails before the first one has arrived
// and after the last one has expired; it never blocks.
func (w *Workload) X509SVID() (*spiffe.X509SVID, error) {
	current := w.identity.Load()
	if current == nil {
		return nil, fault.Deniedf("no identity has been issued to this process")
	}
	if current.expires.IsZero() {
		return nil, fault.Hint(fault.Deniedf("SVID of %s was withdrawn by the agent", current.svid.ID), "kith ids explain")
	}
	if now := w.cfg.Now(); !now.Before(current.expires) {
		return nil, fault.Hint(fault.Deniedf("SVID of %s expired at %s, %s ago: it was not renewed, or the clock of this host is ahead",
			current.svid.ID, current.expires.UTC().Format(time.RFC3339), now.Sub(current.expires).Round(time.Second)),
			"kith doctor")
	}
	return current.svid, nil
}

// Bundle is the current bundle of a trust domain, if this program may trust it.
func (w *Workload) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	current := w.identity.Load()
	if current == nil {
		return nil, false
	}
	bundle, ok := current.bundles[td]
	return bundle, ok
}

// ID is the current SPIFFE ID, zero before there is one.
func (w *Workload) ID() spiffe.ID {
	if current := w.identity.Load(); current != nil {
		return current.svid.ID
	}
	return spiffe.ID{}
}

// Renewed is closed when the identity or a bundle has been replaced after this
// call. A program that keeps copies of them, as files, asks before it copies.
func (w *Workload) Renewed() <-chan struct{} { return *w.renewal.Load() }

// Service is the name of the service this program answers for, "" when its
// identity belongs to none.
func (w *Workload) Service() string { return w.policy.Load().service }

// Protocol is the protocol of the own service, "" when there is none.
func (w *Workload) Protocol() Protocol { return w.policy.Load().protocol }

// Revision is the revision of the policy in force.
func (w *Workload) Revision() uint64 { return w.policy.Load().revision }

// Node is the name of the node this program runs on.
func (w *Workload) Node() string { return w.policy.Load().node }

// Dev says that the agent belongs to `kith dev`, whose state is thrown away.
func (w *Workload) Dev() bool { return w.policy.Load().dev }

// Socket is the path of the agent's socket this program is attached to.
func (w *Workload) Socket() string { return w.socket }

// Advertise replaces the set of addresses, host:port each, at which callers
// reach this program; with none it is withdrawn from the directory. It is told
// to the agent now and after each reconnection.
func (w *Workload) Advertise(addresses ...string) {
	own := append([]string(nil), addresses...)
	w.addresses.Store(&own)
	select {
	case w.advertised <- struct{}{}:
	default:
	}
}

// Hint is the next thing to type after an error of this package, or "".
func Hint(err error) string { return fault.HintOf(err) }

// Stats counts what a Workload has done since Open.
type Stats struct {
	// Reported and Dropped are decisions sent to the agent, and decisions that
	// were lost because the queue was full.
	Reported, Dropped uint64
	// Cut is the number of live exchanges ended by a change of policy.
	Cut uint64
	// Rotations is the number of identities received.
	Rotations uint64
	// Asked is the number of questions to external decisions, and Unanswered how
	// many of them nobody answered.
	Asked, Unanswered uint64
}

// Stats returns the current counts.
func (w *Workload) Stats() Stats {
	return Stats{
		Reported:  w.reports.sent.Load(),
		Dropped:   w.reports.dropped.Load(),
		Cut:       w.live.cuts.Load(),
		Rotations: w.first.rotations.Load(),

		Asked: w.externals.asked.Load(), Unanswered: w.externals.unanswered.Load(),
	}
}
