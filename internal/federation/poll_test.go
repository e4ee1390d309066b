package federation

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// side is the other trust domain, and the server that keeps bundles.
type side struct {
	mu     sync.Mutex
	give   *spiffe.Bundle // what the endpoint answers; nil: fails
	err    error
	held   map[spiffe.TrustDomain]*spiffe.Bundle
	asked  []time.Time
	kept   int
	refuse error // of Keep
}

func (s *side) fetch(ctx context.Context, rel registry.Federation) (Fetched, error) {
	if ctx.Err() != nil {
		return Fetched{}, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, time.Now())
	if s.err != nil {
		return Fetched{}, s.err
	}
	document, err := s.give.Marshal()
	if err != nil {
		return Fetched{}, err
	}
	bundle, err := spiffe.ParseBundle(rel.TrustDomain, document)
	return Fetched{Document: document, Bundle: bundle}, err
}

func (s *side) keep(_ context.Context, td spiffe.TrustDomain, document []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	bundle, err := spiffe.ParseBundle(td, document)
	s.held[td] = bundle
	s.kept++
	return err
}

func (s *side) of(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bundle, ok := s.held[td]
	return bundle, ok
}

func (s *side) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// times is how often the endpoint was asked since the last call.
func (s *side) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.asked)
	s.asked = nil
	return n
}

// polling runs a poller of one relationship in a bubble of its own time.
func polling(t *testing.T, give *spiffe.Bundle, body func(t *testing.T, p *Poller, s *side, log *bytes.Buffer, metrics *prometheus.Registry)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &side{give: give, held: make(map[spiffe.TrustDomain]*spiffe.Bundle)}
		log, metrics := &bytes.Buffer{}, prometheus.NewRegistry()
		p := NewPoller(PollerConfig{
			Fetch: s.fetch, Held: s.of, Keep: s.keep, Now: time.Now,
			Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: metrics,
		})
		rel := web(t, "https://bundles.other.example/")
		p.Set(map[string]registry.Federation{"other.example": rel})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		synctest.Wait()
		body(t, p, s, log, metrics)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time go by.
func pass(d time.Duration) {
	<-time.After(d) // of the bubble's clock: it takes none
	synctest.Wait()
}

// Rule 73, 114: polled at the refresh hint, every five minutes without one, and
// within bounds that the other side cannot move.
func TestPollsAtTheRefreshHint(t *testing.T) {
	other := newAuthority(t, "other")
	for name, tc := range map[string]struct{ hint, want time.Duration }{
		"none":      {0, 5 * time.Minute},
		"ten":       {10 * time.Minute, 10 * time.Minute},
		"a second":  {time.Second, minInterval},
		"ten years": {87600 * time.Hour, maxInterval},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := spiffe.NewBundle(domain(t, "other.example"), 1, tc.hint, other.root)
			polling(t, bundle, func(t *testing.T, _ *Poller, s *side, _ *bytes.Buffer, _ *prometheus.Registry) {
				if got := s.times(); got != 1 {
					t.Fatalf("asked %d times at the start, want once", got)
				}
				pass(tc.want * 8 / 10)
				if got := s.times(); got != 0 {
					t.Errorf("asked again before its time")
				}
				pass(tc.want * 3 / 10)
				if got := s.times(); got != 1 {
					t.Errorf("asked %d times around %s, want once", got, tc.want)
				}
			})
		})
	}
}

// Rule 114: the latest bundle is stored once, and its sequence is compared.
func TestPollKeepsWhatIsNew(t *testing.T) {
	other := newAuthority(t, "other")
	polling(t, other.bundle("other.example", 7), func(t *testing.T, p *Poller, s *side, log *bytes.Buffer, _ *prometheus.Registry) {
		pass(time.Hour)
		if s.kept != 1 {
			t.Errorf("one bundle was kept %d times", s.kept)
		}
		s.set(func() { s.give = newAuthority(t, "next").bundle("other.example", 8) })
		report, err := p.Refresh(t.Context(), domain(t, "other.example"))
		if err != nil || report.Err != nil || s.kept != 2 {
			t.Errorf("refresh: got %v %v, %d kept; want the second", err, report.Err, s.kept)
		}
		s.set(func() { s.give = newAuthority(t, "same number").bundle("other.example", 8) })
		pass(time.Hour)
		if s.kept != 3 || !strings.Contains(log.String(), "bundle changed without its sequence") {
			t.Errorf("new keys under the same sequence: %d kept, log %s", s.kept, log)
		}
	})
}

// T25, attack 70: a bundle whose sequence goes backwards is refused and said so;
// one without a sequence, after one with, is older too.
func TestAttack70PollRefusesAnOlderBundle(t *testing.T) {
	other := newAuthority(t, "other")
	for _, older := range []uint64{6, 0} {
		polling(t, other.bundle("other.example", 7), func(t *testing.T, p *Poller, s *side, log *bytes.Buffer, metrics *prometheus.Registry) {
			s.set(func() { s.give = newAuthority(t, "stolen").bundle("other.example", older) })
			report, err := p.Refresh(t.Context(), domain(t, "other.example"))
			if err != nil {
				t.Fatal(err)
			}
			if reasonOf(report.Err) != ReasonSequence || !strings.Contains(report.Err.Error(), "the one with 7 is kept") || fault.HintOf(report.Err) == "" {
				t.Errorf("sequence %d after 7: got %v, want it refused with a hint", older, report.Err)
			}
			if held, _ := s.of(domain(t, "other.example")); held.Sequence() != 7 {
				t.Errorf("held: sequence %d, want 7", held.Sequence())
			}
			if !strings.Contains(log.String(), "reason=sequence") {
				t.Errorf("log does not say so: %s", log)
			}
			if got := gauge(t, metrics, "kith_federation_failing"); got != 1 {
				t.Errorf("kith_federation_failing is %v, want 1", got)
			}
		})
	}
}

// Rule 67, 68: keys: [] is a bundle like any other, in force at once, and a person
// is told.
func TestPollAcceptsThatAllKeysAreRevoked(t *testing.T) {
	other := newAuthority(t, "other")
	polling(t, other.bundle("other.example", 7), func(t *testing.T, p *Poller, s *side, log *bytes.Buffer, metrics *prometheus.Registry) {
		s.set(func() { s.give = spiffe.NewBundle(domain(t, "other.example"), 8, 0) })
		pass(6 * time.Minute)
		held, ok := s.of(domain(t, "other.example"))
		if !ok || !Revoked(held) || held.Sequence() != 8 {
			t.Errorf("held: %v, want the empty bundle", held)
		}
		if !strings.Contains(log.String(), `level=ERROR msg="trust domain has revoked all its keys"`) {
			t.Errorf("no alarm in the log: %s", log)
		}
		if got := gauge(t, metrics, "kith_federation_revoked"); got != 1 {
			t.Errorf("kith_federation_revoked is %v, want 1", got)
		}
		// It comes back with a newer one.
		s.set(func() { s.give = other.bundle("other.example", 9) })
		pass(6 * time.Minute)
		if held, _ := s.of(domain(t, "other.example")); Revoked(held) || gauge(t, metrics, "kith_federation_revoked") != 0 {
			t.Error("the trust domain did not come back")
		}
		if reports := p.Reports(); len(reports) != 1 {
			t.Errorf("%d reports, want 1", len(reports))
		}
	})
}

// Rule 127: a failure is tried again at the next poll and no sooner, is said once,
// and keeps the former bundle.
func TestPollTriesAgainAtTheNextPoll(t *testing.T) {
	other := newAuthority(t, "other")
	polling(t, other.bundle("other.example", 7), func(t *testing.T, _ *Poller, s *side, log *bytes.Buffer, _ *prometheus.Registry) {
		s.times()
		s.set(func() { s.err = failed(ReasonConnect, "connection refused") })
		pass(61 * time.Minute)
		if got := s.times(); got < 12 || got > 14 {
			t.Errorf("asked %d times in an hour of failures, want about 12", got)
		}
		if got := strings.Count(log.String(), "bundle not fetched"); got != 1 {
			t.Errorf("the failure was logged %d times, want once", got)
		}
		if held, _ := s.of(domain(t, "other.example")); held.Sequence() != 7 {
			t.Errorf("held: sequence %d, want 7", held.Sequence())
		}
		s.set(func() { s.err = failed(ReasonAnswer, "status 503") })
		pass(6 * time.Minute)
		if got := strings.Count(log.String(), "bundle not fetched"); got != 2 {
			t.Errorf("another failure was not logged: %s", log)
		}
	})
}

func TestPollSaysWhatCouldNotBeKept(t *testing.T) {
	other := newAuthority(t, "other")
	polling(t, other.bundle("other.example", 7), func(t *testing.T, p *Poller, s *side, _ *bytes.Buffer, _ *prometheus.Registry) {
		s.set(func() { s.refuse, s.give = errors.New("disk full"), other.bundle("other.example", 8) })
		report, err := p.Refresh(t.Context(), domain(t, "other.example"))
		if err != nil || reasonOf(report.Err) != ReasonStore || !strings.Contains(report.Err.Error(), "disk full") {
			t.Errorf("got %v %v, want why it was not kept", err, report.Err)
		}
	})
}

// Rule 128: termination stops polling; a changed relationship is asked anew.
func TestPollEndsWithTheRelationship(t *testing.T) {
	other := newAuthority(t, "other")
	polling(t, other.bundle("other.example", 7), func(t *testing.T, p *Poller, s *side, _ *bytes.Buffer, _ *prometheus.Registry) {
		s.times()
		moved := map[string]registry.Federation{"other.example": web(t, "https://elsewhere.other.example/")}
		p.Set(moved)
		synctest.Wait()
		if got := s.times(); got != 1 {
			t.Errorf("another URL: asked %d times, want once", got)
		}
		p.Set(maps.Clone(moved))
		synctest.Wait()
		if got := s.times(); got != 0 {
			t.Errorf("the same relationship: asked %d times, want none", got)
		}
		p.Set(nil)
		pass(24 * time.Hour)
		if got := s.times(); got != 0 {
			t.Errorf("asked %d times after the end", got)
		}
		if _, err := p.Refresh(t.Context(), domain(t, "other.example")); !fault.Is(err, fault.NotFound) {
			t.Errorf("refresh after the end: got %v, want not found", err)
		}
	})
}

func gauge(t *testing.T, from *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestPollerMetricsAreWellNamed(t *testing.T) {
	metrics := prometheus.NewRegistry()
	NewPoller(PollerConfig{Metrics: metrics, Held: func(spiffe.TrustDomain) (*spiffe.Bundle, bool) { return nil, false }})
	if problems, err := testutil.GatherAndLint(metrics); err != nil || len(problems) > 0 {
		t.Errorf("got %v %v", problems, err)
	}
}
