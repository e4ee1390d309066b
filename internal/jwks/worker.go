package jwks

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// worker keeps the keys of one provider.
type worker struct {
	k       *Keeper
	name    string
	url     string
	held    atomic.Pointer[held]
	failed  atomic.Pointer[error] // of the last fetch; nil once one works
	missing chan string           // capacity 1: the kid of a token whose key is not there
	cancel  context.CancelFunc
	done    chan struct{}
}

func newWorker(k *Keeper, p usertoken.Provider) *worker {
	return &worker{k: k, name: p.Name, url: p.URL, missing: make(chan string, 1), done: make(chan struct{})}
}

func (w *worker) start(ctx context.Context) {
	ctx, w.cancel = context.WithCancel(ctx)
	go func() {
		defer close(w.done)
		w.run(ctx)
	}()
}

func (w *worker) stop() {
	w.cancel()
	<-w.done
}

// save is what is held.
func (w *worker) save() (s Saved, ok bool) {
	h := w.held.Load()
	if h == nil {
		return Saved{}, false
	}
	return Saved{Provider: w.name, URL: w.url, Keys: h.text, Fetched: h.fetched}, true
}

// restore takes keys of another life; it reports whether they count.
func (w *worker) restore(s Saved) bool {
	set, err := spiffe.ParseJWKSet(s.Keys)
	if err != nil {
		return false
	}
	h := &held{set: set, text: s.Keys, fetched: s.Fetched}
	if !h.good(w.k.cfg.Now(), w.k.times.hold) {
		return false
	}
	w.held.Store(h)
	return true
}

// run fetches at once, then when it is due, when a key is missing, or after a
// failure sooner. A set that has grown too old is told as a change.
func (w *worker) run(ctx context.Context) {
	t := w.k.times
	backoff := run.Backoff{Min: t.first, Max: min(time.Minute, t.refresh)}
	s := search{gap: t.again}
	for err := w.fetch(ctx); ctx.Err() == nil; {
		wait := backoff.Next()
		if err == nil {
			backoff.Reset()
			wait = t.refresh - rand.N(t.refresh/10+1)
		}
		err = w.rest(ctx, wait, &s)
	}
}

// search spaces fetches for keys that tokens name.
type search struct {
	gap  time.Duration
	next time.Time // none before
}

// rest waits until it is time for a fetch, or a key is missing that may be looked
// for, and fetches.
func (w *worker) rest(ctx context.Context, wait time.Duration, s *search) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return w.fetch(ctx)
		case id := <-w.missing:
			now, t := w.k.cfg.Now(), w.k.times
			if h := w.held.Load(); h == nil || h.set.Has(id) || now.Before(s.next) {
				continue // it has come since, or is looked for anyway
			}
			err := w.fetch(ctx)
			if h := w.held.Load(); h != nil && h.set.Has(id) {
				s.gap = t.again
			} else {
				s.gap = min(2*s.gap, t.rarely)
			}
			s.next = now.Add(s.gap)
			return err
		}
	}
}

// fetch gets the set and puts it in force. A failure leaves the one held, until
// it is too old.
func (w *worker) fetch(ctx context.Context) error {
	k := w.k
	before := w.held.Load()
	set, text, err := k.get(ctx, w.url)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		k.fetches.WithLabelValues("failed").Inc()
		if last := w.failed.Swap(&err); last == nil || (*last).Error() != err.Error() {
			k.cfg.Log.Warn("provider keys not fetched", "provider", w.name, "url", w.url, "error", err,
				"held", before.good(k.cfg.Now(), k.times.hold))
		}
		if before != nil && !before.good(k.cfg.Now(), k.times.hold) {
			w.held.Store(nil)
			k.cfg.Log.Error("provider keys too old", "provider", w.name, "fetched", before.fetched)
			k.cfg.Changed()
		}
		return err
	}
	k.fetches.WithLabelValues("ok").Inc()
	w.failed.Store(nil)
	w.held.Store(&held{set: set, text: text, fetched: k.cfg.Now()})
	if before == nil || !bytes.Equal(before.text, text) {
		k.cfg.Log.Info("provider keys changed", "provider", w.name, "keys", set.Len())
		k.cfg.Changed()
	}
	return nil
}

// parse reads a set and writes down what is usable of it.
func parse(body []byte) (*spiffe.JWKSet, []byte, error) {
	set, err := spiffe.ParseJWKSet(body)
	if err != nil {
		return nil, nil, err
	}
	if set.Len() > maxKeys {
		return nil, nil, fmt.Errorf("set of %d keys, at most %d are kept", set.Len(), maxKeys)
	}
	text, err := set.Marshal()
	return set, text, err
}
