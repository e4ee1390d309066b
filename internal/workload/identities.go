package workload

import (
	"context"
	"crypto/ecdsa"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	// maxBatch is how many requests one call to the server carries.
	maxBatch = 128
	// signTimeout bounds one call to the server.
	signTimeout = 10 * time.Second
	// maxIdle bounds the SVIDs kept for workloads that have gone.
	maxIdle = 4096

	minRetry = 200 * time.Millisecond
	maxRetry = 15 * time.Second
)

// Config is what Identities needs.
type Config struct {
	Signer Signer
	// Trust is asked whenever an SVID has been signed: what does not verify
	// with the bundle of now is never handed out.
	Trust func() Trust
	// Saved is called, without any lock held, after the set of SVIDs changed.
	// It must not block. Nil is allowed.
	Saved   func()
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *Metrics

	form form // X.509-SVIDs unless it is set
}

// form is what differs between the kinds of SVID that are bound to a key.
type form struct {
	// accept takes the server's answer if it is what was asked for.
	accept func(id spiffe.ID, key *ecdsa.PrivateKey, result *pb.SignedWorkload, trust Trust, now time.Time) (*Issued, error)
	// respond is the full state of a lease as its streams are sent it.
	respond func(held []Held, trust Trust) (proto.Message, error)
}

// Identities holds the SVIDs of this node's workloads: one key and certificate
// for each set of equal attributes and rule, however many streams want it. An
// SVID is renewed at half its life while somebody wants it, and kept until it
// expires while the server is away.
type Identities struct {
	cfg  Config
	kick chan struct{}

	mu      sync.Mutex
	entries map[string]*entry      // guarded by mu, as is everything in an entry
	held    int                    // entries that have a lease; guarded by mu
	leases  map[*Evaluation]*Lease // guarded by mu
	planned time.Time              // when Run looks again unless it is woken; guarded by mu
}

// entry is one SVID, wanted or kept.
type entry struct {
	key     string
	rule    string
	id      spiffe.ID
	ttl     time.Duration
	attrs   registry.Attributes
	leases  map[*Lease]struct{}
	issued  *Issued
	due     time.Time   // when to sign next, while leased
	end     *time.Timer // of issued, while leased
	signing bool
	again   bool // Renew was called while signing: that one may be from before
	backoff time.Duration
	err     error // of the last attempt, nil once one worked
	voucher voucher
}

// Issued is a signed SVID as it goes over the wire; immutable.
type Issued struct {
	ID       spiffe.ID
	Chain    []byte // concatenated DER, leaf first; empty for a WIT-SVID
	Token    string // of a WIT-SVID
	Key      []byte // PKCS#8; a private JWK for a WIT-SVID
	NotAfter time.Time
	issuedAt time.Time
}

// NewIdentities returns an empty set; Run does the work.
func NewIdentities(cfg Config) *Identities {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	if cfg.form.accept == nil {
		cfg.form = form{accept: accept, respond: x509Response}
	}
	return &Identities{cfg: cfg, kick: make(chan struct{}, 1), entries: make(map[string]*entry), leases: make(map[*Evaluation]*Lease)}
}

// Run signs and renews until ctx ends.
func (m *Identities) Run(ctx context.Context) error {
	signDue(ctx, m.kick, m.due, m.sign)
	return nil
}

// signDue signs what is due, batch after batch, until ctx ends: due says what that
// is, or for how long nothing will be unless kick says otherwise.
func signDue[T any](ctx context.Context, kick <-chan struct{}, due func() ([]T, time.Duration), sign func(context.Context, []T)) {
	for ctx.Err() == nil {
		batch, wait := due()
		if len(batch) > 0 {
			sign(ctx, batch)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-kick:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Retry makes everything that failed due at once: the server is back.
func (m *Identities) Retry() {
	m.mu.Lock()
	now := m.cfg.Now()
	for _, e := range m.entries {
		if e.err != nil {
			e.due, e.backoff = now, 0
		}
	}
	m.mu.Unlock()
	m.wake()
}

// Renew makes every wanted SVID due at once, one that is being signed once more.
func (m *Identities) Renew() {
	m.mu.Lock()
	now := m.cfg.Now()
	for _, e := range m.entries {
		e.due, e.again = now, e.signing
	}
	m.mu.Unlock()
	m.wake()
}

func (m *Identities) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// due takes what is to be signed now, those without an SVID first, or says how
// long nothing will be. SVIDs that nobody holds and that have expired go.
func (m *Identities) due() (batch []*entry, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	wait = time.Minute
	var renewals []*entry
	for key, e := range m.entries {
		if len(e.leases) == 0 {
			if e.issued == nil || !now.Before(e.issued.NotAfter) {
				delete(m.entries, key)
			}
			continue
		}
		switch {
		case e.signing:
		case e.due.After(now):
			wait = min(wait, e.due.Sub(now))
		case e.issued == nil:
			batch = append(batch, e)
		default:
			renewals = append(renewals, e)
		}
	}
	batch = append(batch, renewals...)
	batch = batch[:min(len(batch), maxBatch)]
	for _, e := range batch {
		e.signing = true
	}
	m.planned = now.Add(wait)
	return batch, wait
}

// renewal is when to renew an SVID got now: at half its life, less a random
// tenth so that workloads started together do not renew together.
func renewal(now, notAfter time.Time) time.Time {
	life := notAfter.Sub(now)
	if life <= 0 {
		return now
	}
	return now.Add(life/2 - rand.N(life/10+1))
}

// Count is how many SVIDs are in use, and when the first of them ends.
func (m *Identities) Count() (active int, first time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if len(e.leases) == 0 || e.issued == nil {
			continue
		}
		active++
		if first.IsZero() || e.issued.NotAfter.Before(first) {
			first = e.issued.NotAfter
		}
	}
	return active, first
}

// Active is the IDs in use now.
func (m *Identities) Active() []spiffe.ID {
	return m.ids(func(e *entry) bool { return len(e.leases) > 0 })
}

// Held is the IDs that there is an SVID of, in use or not.
func (m *Identities) Held() []spiffe.ID { return m.ids(func(*entry) bool { return true }) }

func (m *Identities) ids(of func(*entry) bool) []spiffe.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := make(map[spiffe.ID]bool, len(m.entries))
	var ids []spiffe.ID
	for _, e := range m.entries {
		if e.issued != nil && of(e) && !seen[e.id] {
			seen[e.id] = true
			ids = append(ids, e.id)
		}
	}
	return ids
}
