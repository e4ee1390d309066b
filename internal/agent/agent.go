package agent

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/decisionlog"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/jwks"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/workload"
	"github.com/kith-id/kith/spiffe"
)

// rememberedFor is how long after its start the agent goes on announcing the
// endpoints of before: their processes are still there and will attach again.
const rememberedFor = 10 * time.Second

// Agent is the agent of one node.
type Agent struct {
	cfg   Config
	uid   uint32
	files files
	lock  *os.File
	key   crypto.Signer
	ready chan struct{}

	standing        atomic.Pointer[standing]
	standingChanged broadcast
	unproven        chan struct{} // capacity 1: the server does not take our SVID
	up              *uplink       // set once by Run, before anything uses it

	world   atomic.Pointer[world] // nil until the server or the cache gave one
	banned  atomic.Bool           // the server said that this node is not to serve
	changed broadcast             // rules, bundles, claims or standing

	claims     *claims
	points     *points
	asking     *asking
	questions  *extauthz.Service
	catalog    catalog
	decisions  ring
	logged     ring // allows that the decision log has asked for
	flows      flowTable
	identities *workload.Identities
	tokens     *workload.Tokens
	wits       *workload.Identities // nil while the WIT profile is off
	keys       *jwks.Keeper         // of providers of user tokens
	outbox     outbox
	interest   interest
	contact    contact
	remembered atomic.Pointer[[]*pb.LocalEndpoint] // of before the start, for a while
	frozen     atomic.Pointer[[]*pb.LocalEndpoint] // of before the stop, for the cache
	keep       keeper

	refusals     *refusals
	savingPoints sync.Mutex // held while points.cache is written
	metrics      *metrics

	decisionLog *decisionlog.Log // nil for none
}

// New opens the state directory, which one agent at a time may use, and reads
// what is known from before. Close gives it back if Run is never called.
func New(cfg Config) (*Agent, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	a := &Agent{
		cfg: cfg, uid: uint32(os.Getuid()), files: files{dir: cfg.StateDir, kek: cfg.KEK},
		ready: make(chan struct{}), unproven: make(chan struct{}, 1),
		claims: newClaims(cfg.Processes), metrics: newMetrics(), refusals: newRefusals(cfg.Log),
	}
	a.contact.now = cfg.Now
	a.keep.init(a.files, cfg.Now)
	a.outbox.init()
	a.interest.changed = a.outbox.poke
	a.keys = jwks.New(jwks.Config{
		Allow: cfg.KeyNetworks, Hosts: cfg.KeyHosts, Roots: cfg.KeyRoots, Changed: a.keysChanged, Now: cfg.Now, Log: cfg.Log,
	})
	cfg.Decisions.Version, cfg.Decisions.Now, cfg.Decisions.Log = cfg.Version, cfg.Now, cfg.Log
	var err error
	if a.decisionLog, err = decisionlog.New(cfg.Decisions); err != nil {
		return nil, fmt.Errorf("decision log: %w", err)
	}
	a.points = &points{
		identify: a.identitiesOf, acked: a.outbox.ack, needed: a.needKeys, interest: &a.interest,
		limit: swapLimit, all: make(map[*point]struct{}), log: a.decisionLog.Sample(),
	}
	a.asking = &asking{a: a, all: make(map[attest.Process]*asker)}
	a.questions = extauthz.NewService(extauthz.Config{
		Desk: a.asking, Documents: cfg.Documents, AuthZENURL: cfg.AuthZENURL, Version: cfg.Version, Now: cfg.Now, Log: cfg.Log,
	})
	a.identities = workload.NewIdentities(workload.Config{
		Signer: a, Trust: a.Trust, Saved: a.keep.svidsChanged,
		Now: cfg.Now, Log: cfg.Log, Metrics: a.metrics.workload,
	})
	a.tokens = workload.NewTokens(workload.TokensConfig{
		Signer: a, Trust: a.Trust, Now: cfg.Now, Log: cfg.Log, Metrics: a.metrics.workload,
	})
	if cfg.WIT {
		a.wits = workload.NewWITs(workload.WITConfig{
			Signer: a, Trust: a.Trust, Now: cfg.Now, Log: cfg.Log, Metrics: a.metrics.workload,
		})
	}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (a *Agent) open() error {
	if err := os.MkdirAll(a.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	var err error
	if a.lock, err = lockDir(a.files.lock()); err != nil {
		return err
	}
	a.files.sweep()
	if err = a.files.sealAll(); err != nil {
		return err
	}
	if a.key, err = readKey(a.files); err != nil {
		return err
	}
	at, err := readStanding(a.files, a.key)
	if err != nil {
		return fault.Hint(err, "move %s away and join again", a.files.node())
	}
	moved := a.cfg.Server != "" && a.cfg.Join != nil && (at == nil || at.server != a.cfg.Server || at.pin != a.cfg.Pin)
	switch {
	case moved: // another trust domain, or the first start
		at = &standing{server: a.cfg.Server, pin: a.cfg.Pin}
		data, err := at.marshal()
		if err != nil {
			return err
		}
		if err := a.files.write(a.files.node(), data); err != nil {
			return fmt.Errorf("keep server address: %w", err)
		}
		os.Remove(a.files.journal())
		os.Remove(a.files.state())
		os.Remove(a.files.svids())
	case at == nil:
		return errNotJoined()
	case a.cfg.Server != "" && at.server != a.cfg.Server: // the server has moved
		moved := *at
		moved.server = a.cfg.Server
		at = &moved
	}
	a.standing.Store(at)
	a.restore()
	if err := a.restorePoints(); err != nil {
		a.cfg.Log.Warn("cache not usable", "error", err)
	}
	return nil
}

// Close gives back what New took.
func (a *Agent) Close() error {
	if a.lock == nil {
		return nil
	}
	err := a.lock.Close()
	a.lock = nil
	return err
}

// RenewAll makes every workload's SVID due at once, as after a suspicion that
// a key has leaked. Workloads keep the old one until the new one is there.
func (a *Agent) RenewAll() {
	a.cfg.Log.Info("renewing all workload SVIDs")
	a.identities.Renew()
	if a.wits != nil {
		a.wits.Renew()
	}
}

// Ready is closed once the socket serves and the agent knows its rules.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Join admits the node, anew if it was admitted before, and returns; Run then
// needs no join proof. It is done when the node has an SVID on disk.
func (a *Agent) Join(ctx context.Context) error { return a.enter(ctx) }

// Node is the node's name, class and SPIFFE ID once it was admitted.
func (a *Agent) Node() (name, class string, id spiffe.ID) {
	at := a.standing.Load()
	if at == nil || !at.admitted() {
		return "", "", spiffe.ID{}
	}
	return at.node, at.class, at.svid.ID
}

// Run serves until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Close()
	// 1. Be somebody. A node with an SVID, even an expired one, goes on at once.
	if !a.standing.Load().admitted() {
		if err := a.enter(ctx); err != nil {
			return err
		}
	}
	// 2. Own the socket: a second agent ends here, before it disturbs the first.
	listener, err := listen(a.cfg.Socket)
	if err != nil {
		return err
	}
	questions, err := a.listenForQuestions()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	port, err := a.listenOnPort()
	if err != nil {
		return errors.Join(err, listener.Close(), questions.Close())
	}
	brokers, err := a.listenForBrokers()
	if err != nil {
		return errors.Join(err, listener.Close(), questions.Close(), port.Close())
	}
	closing := func(err error) error {
		return errors.Join(err, listener.Close(), questions.Close(), port.Close(), brokers.Close())
	}
	at := a.standing.Load()
	a.up, err = dial(at.server, spiffe.ClientTLS(a, a.cfg.Now, isServer(at.domain())))
	if err != nil {
		return closing(err)
	}
	if err := a.metrics.register(a, a.cfg.Metrics); err != nil {
		return errors.Join(closing(err), a.up.Close())
	}
	defer a.metrics.unregister(a.cfg.Metrics)
	if w := a.world.Load(); w != nil {
		a.points.push(w)
		close(a.ready)
		a.cfg.Log.Info("serving from cache", "revision", w.revision, "socket", a.cfg.Socket)
	}
	// 3. Live. Whatever ends first ends the others.
	group, ctx := errgroup.WithContext(ctx)
	service := workload.NewService(workload.ServiceConfig{
		Host: a, Identities: a.identities, Tokens: a.tokens, WITs: a.wits, Log: a.cfg.Log, Metrics: a.metrics.workload,
	})
	group.Go(func() error { return a.serve(ctx, listener, service) })
	group.Go(func() error { return a.broker(ctx, brokers, service) })
	group.Go(func() error { return a.answer(ctx, questions) })
	group.Go(func() error { return a.answerOnPort(ctx, port) })
	group.Go(func() error { return a.keepStanding(ctx) })
	group.Go(func() error { return a.follow(ctx) })
	group.Go(func() error { return a.identities.Run(ctx) })
	group.Go(func() error { return a.tokens.Run(ctx) })
	if a.wits != nil {
		group.Go(func() error { return a.wits.Run(ctx) })
	}
	group.Go(func() error { return a.keys.Run(ctx) })
	group.Go(func() error { return a.asking.run(ctx) })
	group.Go(func() error { return a.forgetRemembered(ctx) })
	group.Go(func() error { return a.lookForAbsent(ctx) })
	// 4. Some parts end after the others have.
	end := a.linger(ctx)
	err = group.Wait()
	return errors.Join(err, end(), a.up.Close())
}

// linger starts what outlives the others, until end: the writing of the cache, see
// keeper, and the decision log, as the last decisions come while the others end.
func (a *Agent) linger(ctx context.Context) (end func() error) {
	kept := make(chan struct{})
	go func() { defer close(kept); a.keepCache(ctx) }()
	logging, stop := context.WithCancel(context.WithoutCancel(ctx))
	logged := make(chan error, 1)
	go func() { logged <- a.decisionLog.Run(logging) }()
	return func() error {
		stop()
		err := <-logged
		<-kept
		return err
	}
}

// X509SVID implements spiffe.Source for the connection to the server.
func (a *Agent) X509SVID() (*spiffe.X509SVID, error) {
	at := a.standing.Load()
	if at == nil || !at.admitted() {
		return nil, errNotJoined()
	}
	return at.svid, nil
}

// Bundle implements spiffe.Source: only the own trust domain's.
func (a *Agent) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	at := a.standing.Load()
	if at == nil || !at.admitted() || td != at.domain() {
		return nil, false
	}
	if w := a.world.Load(); w != nil && w.domain == td {
		return w.bundles.Bundle(td)
	}
	return at.bundle, true
}

// adopt makes w the world and brings it to everybody; delta is what led to it, nil
// if it came as a whole. Only one goroutine at a time calls it.
func (a *Agent) adopt(w *world, delta []byte) {
	first := a.world.Swap(w) == nil
	a.points.push(w)
	if !w.rulesOnly { // policy rules say nothing about who is who
		a.changed.notify()
	}
	a.outbox.endpointsChanged()
	a.keep.worldChanged(delta)
	a.metrics.revision.Set(float64(w.revision))
	if first {
		close(a.ready)
	}
}

func (a *Agent) forgetRemembered(ctx context.Context) error {
	timer := time.NewTimer(rememberedFor)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
		a.remembered.Store(nil)
		a.outbox.endpointsChanged()
		a.keep.stateChanged()
	}
	return nil
}
