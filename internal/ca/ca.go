// Package ca signs SVIDs: from a sealed root it makes an issuing CA for one
// server and with that leaves, and with a trust domain's ring of keys JWT- and
// WIT-SVIDs, each journalled before and linted after. Who may have which ID is decided
// elsewhere.
package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/spiffe"
)

const (
	renewRetry   = 10 * time.Second
	clockSlack   = 10 * time.Second // how far back a clock may be stepped
	shipInterval = time.Second
)

// Config is what a CA is made of. TrustDomain, Server, Root, KEK, JournalPath
// and Now must be given.
type Config struct {
	TrustDomain spiffe.TrustDomain
	Server      string    // name of this server, in the subject of its issuing CA
	Root        []byte    // what NewRoot returned
	KEK         *keys.KEK // opens the root's key whenever the issuing CA is renewed

	JournalPath  string
	JournalBytes int64 // default 32 MiB, about 60 000 issuances between shipments

	// Ship takes journal entries to the audit log and returns once they are
	// safe there; ShipTo makes one. Without it Run ships nothing, and the
	// journal is exhausted some day unless Drain is called.
	Ship func(context.Context, []Entry) error

	Lifetimes      Lifetimes     // default DefaultLifetimes
	BundleSequence uint64        // default 1
	RefreshHint    time.Duration // of the bundle, default none
	RS256Audiences []string      // whose tokens are signed with RS256, default none: ES256
	Issuer         string        // iss of tokens, an https URL where their keys are published; default none
	Now            func() time.Time
	Log            *slog.Logger          // default: discard
	Metrics        prometheus.Registerer // default: none
}

// CA signs for one trust domain on one server. It may be used from several
// goroutines.
type CA struct {
	config  Config
	td      spiffe.TrustDomain
	root    *root
	bundle  atomic.Pointer[spiffe.Bundle]
	journal *journal
	metrics *metrics
	log     *slog.Logger

	current  atomic.Pointer[issuer]
	renewing sync.Mutex
	retryAt  time.Time // guarded by renewing
	renewErr error     // guarded by renewing
	alarmed  atomic.Bool

	jwt      atomic.Pointer[jwtRing] // nil before UseJWTRing
	adopting sync.Mutex              // held while jwt and bundle are replaced

	// create signs; a test puts a signer that errs in its place.
	create func(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error)
	encode func(jwtKey, jwtClaims) (string, error) // the same of tokens
}

// issuer is an issuing CA. It is immutable; renewal replaces it.
type issuer struct {
	cert    *x509.Certificate
	key     *keys.Authority
	renewAt time.Time
}

// New opens the journal and makes the first issuing CA. It refuses to start
// with a clock that is behind what the journal has seen.
func New(ctx context.Context, config Config) (*CA, error) {
	c, err := newCA(config)
	if err != nil {
		return nil, err
	}
	if c.journal, err = openJournal(config.JournalPath, config.JournalBytes); err != nil {
		return nil, err
	}
	if c.metrics, err = newMetrics(config.Metrics, c); err != nil {
		return nil, errors.Join(err, c.journal.close())
	}
	now := config.Now()
	if err := c.checkClock(now); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if _, err := c.issuer(ctx, now); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// newCA checks the configuration.
func newCA(config Config) (*CA, error) {
	if config.Lifetimes == (Lifetimes{}) {
		config.Lifetimes = DefaultLifetimes()
	}
	if config.BundleSequence == 0 {
		config.BundleSequence = 1
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case config.Server == "" || len(config.Server) > 64-len("Kith issuing "):
		return nil, fault.Invalidf("server name %q has not 1 to 51 bytes", config.Server) // RFC 5280: a common name has at most 64
	case config.KEK == nil || config.Now == nil || config.JournalPath == "":
		return nil, fault.Invalidf("ca: key encryption key, clock and journal path must be given")
	}
	if err := config.Lifetimes.validate(); err != nil {
		return nil, err
	}
	td, root, err := parseRoot(config.Root)
	if err != nil {
		return nil, err
	}
	if td != config.TrustDomain {
		err := fault.Invalidf("stored root is of trust domain %s, not %s", td, config.TrustDomain)
		return nil, fault.Hint(err, "a trust domain cannot be renamed; start with an empty state directory for a new one")
	}
	c := &CA{
		config: config,
		td:     td,
		root:   root,
		log:    config.Log,
		encode: encodeJWT,
		create: create,
	}
	bundle, err := c.bundleWith(nil)
	c.bundle.Store(bundle)
	return c, err
}

// Root is the root certificate. A server that nodes join by pin sends it at
// the end of its chain.
func (c *CA) Root() *x509.Certificate { return c.root.cert }

// Bundle holds the root, no issuing CA, and the keys for tokens, which the
// trust domain has in common: so it is the same on every server and after every
// restart.
func (c *CA) Bundle() *spiffe.Bundle { return c.bundle.Load() }

// Lifetimes is how long the certificates live.
func (c *CA) Lifetimes() Lifetimes { return c.config.Lifetimes }

// Run ships the journal and renews the issuing CA ahead of need, until ctx
// ends. Then it ships once more what it can within five seconds. It ends with
// an error when the journal can no longer be written: only opening it again
// tells what is on disk, and until then nothing is signed.
func (c *CA) Run(ctx context.Context) error {
	tick := time.NewTimer(run.Beat(shipInterval))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			c.ship(last)
			return nil
		case <-tick.C:
		}
		tick.Reset(run.Beat(shipInterval))
		if err := c.journal.failure(); err != nil {
			return err
		}
		if _, err := c.issuer(ctx, c.config.Now()); err != nil && ctx.Err() == nil {
			c.log.Error("no issuing CA", "error", err)
		}
		select {
		case <-c.journal.wake:
			c.ship(ctx)
		default:
		}
	}
}

// ship drains the journal; what fails is tried again.
func (c *CA) ship(ctx context.Context) {
	if c.config.Ship == nil {
		return
	}
	if err := c.Drain(ctx, c.config.Ship); err != nil {
		c.metrics.shipFailures.Inc()
		c.log.Warn("journal not shipped", "error", err, "used", c.journal.share())
		select { // again at the next tick
		case c.journal.wake <- struct{}{}:
		default:
		}
	}
	c.checkAlarm()
}

// checkAlarm says once that the journal is half full, and once that it is not
// any longer.
func (c *CA) checkAlarm() {
	full := c.journal.share() >= alarmShare
	if c.alarmed.Swap(full) == full {
		return
	}
	if full {
		c.log.Error("journal half full", "used", c.journal.share(), "hint", "make the audit log writable; issuing stops when the journal is full")
	} else {
		c.log.Info("journal shipped", "used", c.journal.share())
	}
}

// Drain ships journal entries in order until none is left and makes their
// space free. Entries are shipped at least once.
func (c *CA) Drain(ctx context.Context, ship func(context.Context, []Entry) error) error {
	return c.journal.drain(ctx, ship)
}

// Status is what an operator wants to know of a CA.
type Status struct {
	JournalUsed     float64 // 0 to 1
	JournalAlarm    bool    // half full
	IssuingNotAfter time.Time
	RootNotAfter    time.Time
	RenewError      error // of the last renewal of the issuing CA
}

// Status is the state now.
func (c *CA) Status() Status {
	s := Status{JournalUsed: c.journal.share(), RootNotAfter: c.root.cert.NotAfter}
	s.JournalAlarm = s.JournalUsed >= alarmShare
	if current := c.current.Load(); current != nil {
		s.IssuingNotAfter = current.cert.NotAfter
	}
	c.renewing.Lock()
	s.RenewError = c.renewErr
	c.renewing.Unlock()
	return s
}

// Close closes the journal; nothing is signed afterwards. Call it when Run has
// returned.
func (c *CA) Close() error {
	c.metrics.unregister()
	return c.journal.close()
}

// issuer is the issuing CA to sign with now, renewed if half its life is over.
// A renewal that fails is an error only when the present one is of no more use.
func (c *CA) issuer(ctx context.Context, now time.Time) (*issuer, error) {
	current := c.current.Load()
	if current != nil && now.Before(current.renewAt) {
		return current, nil
	}
	usable := current != nil && current.cert.NotAfter.Sub(now) >= 2*minLeaf
	if !usable {
		c.renewing.Lock()
	} else if !c.renewing.TryLock() {
		return current, nil // somebody else is at it
	}
	defer c.renewing.Unlock()
	if newer := c.current.Load(); newer != current {
		return newer, nil
	}
	if usable && now.Before(c.retryAt) {
		return current, nil
	}
	next, err := c.renew(ctx, now)
	c.renewErr = err
	switch {
	case err == nil:
		c.current.Store(next)
		c.log.Info("issuing CA ready", "serial", next.cert.SerialNumber.Text(16), "not_after", next.cert.NotAfter)
		return next, nil
	case usable:
		c.retryAt = now.Add(renewRetry)
		c.log.Warn("issuing CA not renewed", "error", err, "not_after", current.cert.NotAfter)
		return current, nil
	}
	return nil, fmt.Errorf("make issuing CA: %w", err)
}

func (c *CA) renew(ctx context.Context, now time.Time) (*issuer, error) {
	if err := c.checkClock(now); err != nil {
		return nil, err
	}
	return c.signIssuing(ctx, now)
}

// checkClock refuses a clock that is behind the last time on disk: what is
// signed then would outlive what the journal says.
func (c *CA) checkClock(now time.Time) error {
	latest := time.Unix(0, c.journal.latest.Load())
	if now.Add(clockSlack).Before(latest) {
		err := fmt.Errorf("clock is %s behind: it is at %s, and at %s something was issued already",
			latest.Sub(now).Round(time.Second), now.UTC().Format(time.RFC3339), latest.UTC().Format(time.RFC3339))
		return fault.Hint(err, "set the clock; if it is right now and was ahead before, stop the server and move %s away once its entries are in the audit log", c.journal.path)
	}
	return nil
}
