// Package jwks fetches the keys of providers and keeps them fresh, so that user
// tokens can be checked while a provider, or the server, is away. What a token
// must be is usertoken's to say; who gets the keys, the agent's.
package jwks

import (
	"context"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

const (
	// refreshEvery is how often a set is fetched, and so how long a key that its
	// provider has withdrawn may go on counting while the provider answers.
	refreshEvery = 10 * time.Minute
	// holdFor is how long a set counts after its last fetch: a provider that is
	// away longer than that may have withdrawn all of its keys.
	holdFor = 24 * time.Hour
	// askAgain is the shortest time between two fetches for keys that tokens name
	// and the set lacks. It doubles, to askRarely, with each that brings nothing:
	// anybody can write a token that names a new key.
	askAgain  = 10 * time.Second
	askRarely = 5 * time.Minute
	// maxKeys is how many of a set's keys are kept.
	maxKeys = 64
)

// Config is what a Keeper needs. Clock and log must be given.
type Config struct {
	// Allow are networks that may be asked besides public ones.
	Allow []netip.Prefix
	// Hosts are host or host:port that may be asked whatever their address is,
	// and over plain HTTP.
	Hosts []string
	// Roots verify providers; nil are this host's, as they are on the web.
	Roots *x509.CertPool
	// Changed is called when keys have changed. It must not block.
	Changed func()
	Now     func() time.Time
	Log     *slog.Logger
}

// Keeper holds the keys of the providers that are needed here.
type Keeper struct {
	cfg     Config
	fetches *prometheus.CounterVec
	times   times

	mu      sync.Mutex
	wanted  map[string]usertoken.Provider // guarded by mu; those with a URL
	workers map[string]*worker            // guarded by mu
	saved   map[string]Saved              // guarded by mu; of providers that are not needed now
	wake    chan struct{}                 // capacity 1: wanted has changed
}

// times are the constants above; tests have shorter ones.
type times struct {
	refresh, hold, again, rarely, first time.Duration
}

// Saved is one provider's keys as they outlive the agent.
type Saved struct {
	Provider string    `json:"provider"`
	URL      string    `json:"url"`
	Keys     []byte    `json:"keys"`
	Fetched  time.Time `json:"fetched"`
}

// Status is how the fetching of one provider's keys goes.
type Status struct {
	Provider string
	Fetched  time.Time // the last fetch that worked; zero for none
	Keys     int       // that count now
	Err      error     // of the last fetch
}

// New returns a Keeper that needs nothing yet; Run does the work.
func New(cfg Config) *Keeper {
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	return &Keeper{
		cfg: cfg, wanted: map[string]usertoken.Provider{}, workers: map[string]*worker{}, saved: map[string]Saved{},
		wake:  make(chan struct{}, 1),
		times: times{refresh: refreshEvery, hold: holdFor, again: askAgain, rarely: askRarely, first: time.Second},
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_provider_fetches_total", Help: "Fetches of providers' keys.",
		}, []string{"outcome"}),
	}
}

// Collectors are the metrics.
func (k *Keeper) Collectors() []prometheus.Collector {
	return []prometheus.Collector{k.fetches, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kith_agent_providers_without_keys", Help: "Providers needed on this node whose keys are not here: their tokens are refused.",
	}, func() float64 {
		without := 0
		for _, s := range k.Status() {
			if s.Keys == 0 {
				without++
			}
		}
		return float64(without)
	})}
}

// Need replaces the providers whose keys are needed here. Those that carry their
// keys need no fetching. The keys of a provider that is asked elsewhere than
// before count no longer.
func (k *Keeper) Need(providers []usertoken.Provider) {
	wanted := make(map[string]usertoken.Provider, len(providers))
	for _, p := range providers {
		if p.URL != "" {
			wanted[p.Name] = p
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wanted = wanted
	poke(k.wake)
}

// Missing says that a token names a key that the provider's set lacks. The set is
// fetched, if it was not just now.
func (k *Keeper) Missing(provider, keyID string) {
	k.mu.Lock()
	w := k.workers[provider]
	k.mu.Unlock()
	if w == nil {
		return
	}
	select {
	case w.missing <- keyID:
	default: // one is being looked for
	}
}

// Keys are the sets that count now, by URL.
func (k *Keeper) Keys() map[string][]byte {
	now := k.cfg.Now()
	out := map[string][]byte{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		if h := w.held.Load(); h.good(now, k.times.hold) {
			out[w.url] = h.text
		}
	}
	return out
}

// Status is how it goes, by name.
func (k *Keeper) Status() []Status {
	now := k.cfg.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []Status
	for _, name := range slices.Sorted(maps.Keys(k.wanted)) {
		s := Status{Provider: name}
		if w := k.workers[name]; w != nil {
			if h := w.held.Load(); h != nil {
				s.Fetched = h.fetched
				if h.good(now, k.times.hold) {
					s.Keys = h.set.Len()
				}
			}
			if failed := w.failed.Load(); failed != nil {
				s.Err = *failed
			}
		}
		out = append(out, s)
	}
	return out
}

// Saved is what is held, for Restore in another life.
func (k *Keeper) Saved() []Saved {
	now := k.cfg.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	all := maps.Clone(k.saved)
	for name, w := range k.workers {
		if s, ok := w.save(); ok {
			all[name] = s
		}
	}
	var out []Saved
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if now.Before(all[name].Fetched.Add(k.times.hold)) {
			out = append(out, all[name])
		}
	}
	return out
}

// Restore brings back what was saved, to be used where a provider of that name
// is asked at that place. It is called before Run.
func (k *Keeper) Restore(all []Saved) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range all {
		k.saved[s.Provider] = s
	}
}

// Run fetches until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.reconcile(ctx, nil)
	for {
		k.mu.Lock()
		wanted := k.wanted
		k.mu.Unlock()
		k.reconcile(ctx, wanted)
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		}
	}
}

// reconcile ends and starts workers, so that there is one for each provider. Only
// Run's goroutine calls it.
func (k *Keeper) reconcile(ctx context.Context, wanted map[string]usertoken.Provider) {
	k.mu.Lock()
	var ended []*worker
	for name, w := range k.workers {
		if p, still := wanted[name]; !still || p.URL != w.url {
			ended = append(ended, w)
			if ctx.Err() != nil {
				continue
			}
			delete(k.workers, name)
			if s, ok := w.save(); ok && !still && len(k.saved) < usertoken.MaxProviders {
				k.saved[name] = s // its workload may be back in a moment
			}
		}
	}
	restored := false
	for name, p := range wanted {
		if k.workers[name] != nil {
			continue
		}
		w := newWorker(k, p)
		if s, ok := k.saved[name]; ok && s.URL == p.URL {
			restored = w.restore(s) || restored
		}
		delete(k.saved, name)
		k.workers[name] = w
		w.start(ctx)
	}
	k.mu.Unlock()
	for _, w := range ended {
		w.stop()
	}
	if (len(ended) > 0 && ctx.Err() == nil) || restored {
		k.cfg.Changed()
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// held is a set and when it was fetched; nil is none.
type held struct {
	set     *spiffe.JWKSet
	text    []byte // of the set's usable keys
	fetched time.Time
}

func (h *held) good(now time.Time, hold time.Duration) bool {
	return h != nil && now.Before(h.fetched.Add(hold)) && !now.Before(h.fetched.Add(-time.Hour)) // a clock that went back proves no age
}
