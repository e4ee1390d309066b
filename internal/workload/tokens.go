package workload

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

const (
	// renewedFor is how long after its last use a JWT-SVID is renewed ahead of
	// need: two lives, so that what is asked for now and then is always fresh.
	renewedFor = 10 * time.Minute
	// maxTokens bounds the cache, and maxTokensEach what one identity has in it.
	maxTokens, maxTokensEach = 4096, 64
	// newTokens is how many new audiences an identity may ask for in a second;
	// as many as it has room for at once.
	newTokens = 10
)

// JWTSigner has JWT-SVIDs signed; it is the connection to the server. Results
// and error are as those of a [Signer].
type JWTSigner interface {
	SignJWTs(ctx context.Context, requests []*pb.JWTRequest) ([]*pb.SignedJWT, error)
}

// TokensConfig is what Tokens needs. Trust, Now and Log are as in [Config].
type TokensConfig struct {
	Signer  JWTSigner
	Trust   func() Trust
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *Metrics

	wait time.Duration // signWait unless it is set
	most int           // maxTokens unless it is set
}

// Tokens holds the JWT-SVIDs of this node's workloads by identity and audience.
// One that is still valid is served at once, whatever the server does; it is
// renewed in the background at half its life while it is in use. They are kept
// in memory only: a token is of use to whoever reads it.
type Tokens struct {
	cfg  TokensConfig
	kick chan struct{}

	mu     sync.Mutex
	owners map[string]*owner // by identity and attributes; guarded by mu, as is all in them
	count  int               // of all tokens; guarded by mu
	done   chan struct{}     // closed and replaced when a batch is finished; guarded by mu
}

// owner is an identity of workloads with equal attributes.
type owner struct {
	key    string
	match  registry.Match
	attrs  registry.Attributes
	tokens map[string]*token // by audience
	budget *rate.Limiter     // of new tokens
}

// token is one JWT-SVID, wanted or there.
type token struct {
	of       *owner
	key      string
	audience []string
	svid     *spiffe.JWTSVID // nil while there is none
	vouched  *spiffe.Bundle  // the bundle it was verified with
	used     time.Time
	due      time.Time // when to sign next
	waiting  int       // callers
	signing  bool
	backoff  time.Duration
	err      error // of the last attempt, nil once one worked
}

// NewTokens returns an empty cache; Run does the work.
func NewTokens(cfg TokensConfig) *Tokens {
	if cfg.Metrics == nil {
		cfg.Metrics = NewMetrics()
	}
	return &Tokens{cfg: cfg, kick: make(chan struct{}, 1), owners: make(map[string]*owner), done: make(chan struct{})}
}

// HeldJWT is one identity's JWT-SVID, or the reason why there is none.
type HeldJWT struct {
	Match registry.Match
	SVID  *spiffe.JWTSVID
	Err   error
}

// errTooMany is the answer to an identity that asks for ever new audiences.
type errTooMany struct{}

func (errTooMany) Error() string { return "too many new audiences; come back in a second" }

// Fetch gives the JWT-SVIDs of the matches for an audience, which is sorted and
// without doubles, and says whether it had to wait: only for those that are not
// there, until ctx ends or the server has had its time.
func (m *Tokens) Fetch(ctx context.Context, ev *Evaluation, matches []registry.Match, audience []string) (held []HeldJWT, waited bool) {
	wanted := make([]*token, len(matches)) // nil: there or refused
	held = make([]HeldJWT, len(matches))
	trust := m.cfg.Trust()
	m.mu.Lock()
	now := m.cfg.Now()
	for i, match := range matches {
		held[i].Match = match
		t := m.find(match, ev, audience, now)
		if t == nil {
			held[i].Err = errTooMany{}
			continue
		}
		t.check(trust, now)
		if t.used = now; t.svid != nil {
			held[i].SVID = t.svid
			continue
		}
		wanted[i], waited = t, true
		t.waiting++
	}
	m.mu.Unlock()
	if waited {
		m.wake()
		wait, cancel := context.WithTimeout(ctx, cmp.Or(m.cfg.wait, signWait))
		defer cancel()
		m.await(wait, wanted, held)
	}
	return held, waited
}

// await fills in what comes until all is there or refused, or ctx ends.
func (m *Tokens) await(ctx context.Context, wanted []*token, held []HeldJWT) {
	for {
		m.mu.Lock()
		waiting, done := false, m.done
		for i, t := range wanted {
			if t == nil {
				continue
			}
			held[i].SVID, held[i].Err = t.svid, t.err
			if t.svid == nil && !Refused(t.err) && ctx.Err() == nil {
				waiting = true
				continue
			}
			wanted[i] = nil
			if t.waiting--; t.waiting == 0 && t.svid == nil && !t.signing {
				m.drop(t, nil)
			}
		}
		m.mu.Unlock()
		if !waiting {
			return
		}
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
}

// find returns the token for an audience, a new one if need be, and nil when
// the identity asks for too many. The caller holds mu.
func (m *Tokens) find(match registry.Match, ev *Evaluation, audience []string, now time.Time) *token {
	name := entryKey(match, ev.digest)
	o := m.owners[name]
	if o == nil {
		o = &owner{key: name, match: match, attrs: ev.Attributes, tokens: make(map[string]*token), budget: rate.NewLimiter(newTokens, maxTokensEach)}
		m.owners[name] = o
	}
	key := strings.Join(audience, "\x00")
	if t := o.tokens[key]; t != nil {
		return t
	}
	if !o.budget.AllowN(now, 1) {
		return nil
	}
	if len(o.tokens) >= maxTokensEach && !m.evict(o) || m.count >= cmp.Or(m.cfg.most, maxTokens) && !m.evict(nil) {
		return nil
	}
	t := &token{of: o, key: key, audience: slices.Clone(audience), due: now}
	o.tokens[key] = t
	m.count++
	return t
}

// evict drops the token of an owner, or of all, that was not used for the
// longest time; those that somebody waits for stay. The caller holds mu.
func (m *Tokens) evict(from *owner) bool {
	var victim *token
	for _, o := range m.owners {
		if from != nil && o != from {
			continue
		}
		for _, t := range o.tokens {
			if t.waiting == 0 && !t.signing && (victim == nil || t.used.Before(victim.used)) {
				victim = t
			}
		}
	}
	if victim != nil {
		m.drop(victim, from)
	}
	return victim != nil
}

// drop removes a token, and its owner with the last one unless that is the one
// to keep. The caller holds mu.
func (m *Tokens) drop(t *token, keep *owner) {
	delete(t.of.tokens, t.key)
	m.count--
	if len(t.of.tokens) == 0 && t.of != keep && t.of.budget.TokensAt(m.cfg.Now()) >= maxTokensEach {
		delete(m.owners, t.of.key)
	}
}

// check forgets a token that has ended or that the bundle no longer vouches
// for. The caller holds mu.
func (t *token) check(trust Trust, now time.Time) {
	if t.svid == nil {
		return
	}
	own := trust.Bundles[trust.Domain]
	if own != t.vouched {
		if _, err := spiffe.ValidateJWT(t.svid.Token(), checkOf(t.audience, trust, now)); err == nil {
			t.vouched = own
		}
	}
	if own != t.vouched || !now.Before(t.svid.Expiry) {
		t.svid, t.due = nil, now
	}
}

func checkOf(audience []string, trust Trust, now time.Time) spiffe.JWTCheck {
	return spiffe.JWTCheck{Audiences: audience, Bundle: trust.Bundles.Bundle, Now: now}
}
