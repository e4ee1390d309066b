package workload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/run/runtest"
	"github.com/kith-id/kith/spiffe"
)

// cache is a cache of tokens in a bubble of its own time.
type cache struct {
	*Tokens
	*world
	t *testing.T
}

// inBubble runs a test on a cache whose minutes take no time.
func inBubble(t *testing.T, test func(c *cache)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := &cache{NewTokens(TokensConfig{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)}), w, t}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = c.Run(ctx) })
		test(c)
		cancel()
		running.Wait()
	})
}

// fetch is one identity's token and how long that took.
func (c *cache) fetch(audience ...string) (HeldJWT, time.Duration) {
	c.t.Helper()
	began := time.Now()
	held, _ := c.Fetch(c.t.Context(), NewEvaluation(c.ev.Attributes, c.ev.Matches, nil), c.ev.Matches[:1], audience)
	if len(held) != 1 {
		c.t.Fatalf("%d answers", len(held))
	}
	return held[0], time.Since(began)
}

// must is fetch of what must be there.
func (c *cache) must(audience ...string) *spiffe.JWTSVID {
	c.t.Helper()
	held, _ := c.fetch(audience...)
	if held.SVID == nil {
		c.t.Fatalf("no token: %v", held.Err)
	}
	return held.SVID
}

// pass lets time go by, and all that is due then happen.
func (c *cache) pass(d time.Duration) {
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

func TestCachedTokenNeedsNoServer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		first := c.must("orders")
		c.set(func() { c.away = errors.New("connection refused") })
		if again := c.must("orders"); again.Token() != first.Token() || c.signed() != 1 {
			t.Errorf("%d tokens were signed", c.signed())
		}
	})
}

func TestTokenInUseIsRenewedAtHalfLife(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		first := c.must("orders")
		c.pass(2 * time.Minute)
		if c.signed() != 1 {
			t.Error("renewed before half its life is over")
		}
		c.pass(31 * time.Second)
		second, took := c.fetch("orders")
		if c.signed() != 2 || second.SVID.Token() == first.Token() || took != 0 {
			t.Errorf("after half its life: %d signed, waited %s", c.signed(), took)
		}
		for range 30 { // and it goes on so: nobody ever gets one with less than half its life
			c.pass(time.Minute)
			if left := time.Until(c.must("orders").Expiry); left < 2*time.Minute {
				t.Fatalf("a token with %s left", left)
			}
		}
	})
}

// A still valid token is served at once while the server is away: not after a
// wait, whether it refuses connections or swallows them, to the last second.
func TestValidTokenIsServedAtOnceWhileTheServerIsAway(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]func(w *world){
		"refuses":  func(w *world) { w.away = errors.New("connection refused") },
		"swallows": func(w *world) { w.signing = make(chan struct{}) },
	} {
		inBubble(t, func(c *cache) {
			first := c.must("orders")
			c.set(func() { away(c.world) })
			for _, at := range []time.Duration{time.Second, 149 * time.Second, 149 * time.Second} {
				c.pass(at)
				held, took := c.fetch("orders")
				if held.SVID == nil || held.SVID.Token() != first.Token() || took != 0 {
					t.Fatalf("%s, %s before its end: got %v, %v after %s", name, time.Until(first.Expiry), held.SVID, held.Err, took)
				}
			}
			c.pass(time.Until(first.Expiry))
			if held, took := c.fetch("orders"); held.SVID != nil || took != signWait {
				t.Errorf("%s, when it has ended: got %v after %s", name, held.SVID, took)
			}
		})
	}
}

func TestServerThatComesBack(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		first := c.must("orders")
		c.set(func() { c.away = errors.New("connection refused") })
		c.pass(4 * time.Minute)
		c.set(func() { c.away = nil })
		c.Retry()
		synctest.Wait()
		if c.must("orders").Token() == first.Token() {
			t.Error("the token was not renewed when the server came back")
		}
	})
}

func TestWaiterGetsTheTokenOnceTheServerIsBack(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		c.away = errors.New("connection refused")
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if held, took := c.fetch("orders"); held.SVID == nil || took > 2*time.Second {
				t.Errorf("got %v after %s", held.Err, took)
			}
		})
		c.pass(time.Second)
		c.set(func() { c.away = nil })
		c.Retry()
		waiting.Wait()
	})
}

func TestUnusedTokensGo(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		c.must("orders")
		c.pass(time.Hour)
		if n := c.signed(); n < 2 || n > 6 {
			t.Errorf("%d signed for a token that nobody used again", n)
		}
		if c.count != 0 || len(c.owners) != 0 {
			t.Errorf("%d tokens of %d identities are kept", c.count, len(c.owners))
		}
	})
}

func TestConcurrentFetchesShareOneToken(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { c.must("orders") })
		}
		all.Wait()
		if c.signed() != 1 {
			t.Errorf("%d signed", c.signed())
		}
	})
}

func TestOtherAttributesAreAnotherToken(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		first := c.must("orders")
		c.set(func() { c.ev.Attributes = registry.Attributes{"workload.unix.uid": "1001"} })
		c.set(func() { c.refuse = "not for uid 1001" })
		if held, _ := c.fetch("orders"); held.SVID != nil || !Refused(held.Err) {
			t.Errorf("another user got %v of %s", held.SVID, first.ID)
		}
	})
}

// A token whose key has been taken out of the bundle is not handed out again.
func TestTokenOfAWithdrawnKeyGoes(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		first := c.must("orders")
		own := c.ev.Matches[0].ID.TrustDomain()
		c.set(func() {
			next, err := c.bundles[own].WithJWTKeys(spiffe.JWTKey{ID: "next", Public: &c.jwtKey.PublicKey})
			if err != nil {
				t.Fatal(err)
			}
			c.bundles = spiffe.BundleMap{own: next}
			c.forge = func(f *jwtForm) { f.Kid = "next" }
		})
		if second := c.must("orders"); second.Token() == first.Token() || second.KeyID() != "next" {
			t.Error("the token of a key that is gone was handed out")
		}
		// And a bundle that only grew leaves the token in place.
		c.set(func() { c.bundles = spiffe.BundleMap{own: withJWTKey(t, c.bundles[own], "more", c.jwtKey)} })
		before := c.signed()
		c.must("orders")
		if c.signed() != before {
			t.Error("a token was thrown away for a key that came beside its own")
		}
	})
}

// T5: an identity that asks for ever new audiences takes neither the cache nor
// the server from others.
func TestNewAudiencesAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		c.must("orders")
		refusals := 0
		for i := range 200 {
			if held, _ := c.fetch(fmt.Sprint(i)); errors.As(held.Err, new(errTooMany)) {
				refusals++
			}
		}
		if refusals < 100 || c.count > maxTokensEach {
			t.Errorf("of 200 audiences %d are refused, and %d kept", refusals, c.count)
		}
		c.pass(time.Second)
		if held, _ := c.fetch("later"); held.SVID == nil {
			t.Errorf("a second later: %v", held.Err)
		}
		c.ev.Matches = []registry.Match{{Rule: "b", ID: mustID("spiffe://" + domain + "/vms/other")}}
		c.must("orders")
	})
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *cache) {
		c.set(func() { c.refuse = "" })
		if c.cfg.most = maxTokens; runtest.Raced {
			c.cfg.most /= 8
		}
		fill := c.cfg.most/maxTokensEach + 2
		for i := range fill {
			c.ev.Matches = []registry.Match{{Rule: "b", ID: mustID(fmt.Sprintf("spiffe://%s/vms/n%d", domain, i))}}
			var some sync.WaitGroup
			for j := range maxTokensEach {
				some.Go(func() { c.must(fmt.Sprint(j)) })
			}
			some.Wait()
		}
		if c.count > c.cfg.most {
			t.Errorf("%d tokens, at most %d are kept", c.count, c.cfg.most)
		}
	})
}

// What the server sends is taken only if it is what was asked for.
func TestTokenThatWasNotAskedFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		forge func(*jwtForm)
		why   string
	}{
		"other subject":  {func(f *jwtForm) { f.Sub += "x" }, "signed for"},
		"more audience":  {func(f *jwtForm) { f.Aud = append(f.Aud, "admin") }, "signed for"},
		"other audience": {func(f *jwtForm) { f.Aud = []string{"admin"} }, "signed for"},
		"other key":      {func(f *jwtForm) { f.Kid = "nobody" }, "does not verify"},
		"ended":          {func(f *jwtForm) { f.Exp = time.Now().Unix() - 1 }, "this clock"},
		"to come":        {func(f *jwtForm) { f.Iat, f.Exp = f.Iat+120, f.Exp+120 }, "this clock"},
		"too long":       {func(f *jwtForm) { f.Exp += 48 * 3600 }, "does not verify"},
		"malformed":      {func(f *jwtForm) { f.Sub = "web" }, "unusable"},
	} {
		inBubble(t, func(have *cache) {
			have.forge = c.forge
			held, _ := have.fetch("orders")
			if held.SVID != nil || held.Err == nil || !strings.Contains(held.Err.Error(), c.why) {
				t.Errorf("%s: got %v, %v, want %q", name, held.SVID, held.Err, c.why)
			}
		})
	}
}

func BenchmarkFetchCachedToken(b *testing.B) {
	w := newWorld(b)
	tokens := NewTokens(TokensConfig{Signer: w, Trust: w.Trust, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = tokens.Run(ctx) }()
	b.ReportAllocs()
	for b.Loop() {
		if held, _ := tokens.Fetch(ctx, NewEvaluation(w.ev.Attributes, w.ev.Matches, nil), w.ev.Matches, []string{"orders"}); held[0].SVID == nil {
			b.Fatal(held[0].Err)
		}
	}
}
