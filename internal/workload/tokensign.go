package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// Run signs and renews until ctx ends.
func (m *Tokens) Run(ctx context.Context) error {
	signDue(ctx, m.kick, m.due, m.sign)
	return nil
}

// Retry makes everything that failed due at once: the server is back.
func (m *Tokens) Retry() {
	m.mu.Lock()
	now := m.cfg.Now()
	for _, o := range m.owners {
		for _, t := range o.tokens {
			if t.err != nil {
				t.due, t.backoff = now, 0
			}
		}
	}
	m.mu.Unlock()
	m.wake()
}

func (m *Tokens) wake() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// due takes what is to be signed now, those that somebody waits for first, or
// says how long nothing will be. What nobody uses goes when it has ended.
func (m *Tokens) due() (batch []*token, wait time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	wait = time.Minute
	var renewals []*token
	for key, o := range m.owners {
		if len(o.tokens) == 0 && o.budget.TokensAt(now) >= maxTokensEach {
			delete(m.owners, key)
		}
		for _, t := range o.tokens {
			if t.svid != nil && !now.Before(t.svid.Expiry) {
				t.svid = nil
			}
			switch {
			case t.signing:
			case t.svid == nil && t.waiting == 0:
				m.drop(t, nil)
			case t.svid != nil && now.Sub(t.used) >= renewedFor:
			case t.due.After(now):
				wait = min(wait, t.due.Sub(now))
			case t.svid == nil:
				batch = append(batch, t)
			default:
				renewals = append(renewals, t)
			}
		}
	}
	batch = append(batch, renewals...)
	batch = batch[:min(len(batch), maxBatch)]
	for _, t := range batch {
		t.signing = true
	}
	return batch, wait
}

func (m *Tokens) sign(ctx context.Context, batch []*token) {
	requests := make([]*pb.JWTRequest, len(batch))
	for i, t := range batch {
		o := t.of
		requests[i] = &pb.JWTRequest{Rule: o.match.Rule, SpiffeId: o.match.ID.String(), Attributes: o.attrs, Audience: t.audience}
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	results, err := m.cfg.Signer.SignJWTs(ctx, requests)
	if err == nil && len(results) != len(batch) {
		err = fmt.Errorf("server answered %d of %d requests", len(results), len(batch))
	}
	if err != nil {
		m.cfg.Log.Warn("sign JWTs", "requests", len(batch), "error", err)
	}
	m.finish(batch, results, err)
}

// finish records the outcome of a batch and wakes who waits. A token that is
// still valid stays when its renewal fails.
func (m *Tokens) finish(batch []*token, results []*pb.SignedJWT, whole error) {
	trust, now := m.cfg.Trust(), m.cfg.Now()
	svids, errs := make([]*spiffe.JWTSVID, len(batch)), make([]error, len(batch))
	for i, t := range batch {
		if errs[i] = whole; whole == nil {
			svids[i], errs[i] = acceptJWT(t, results[i], trust, now)
		}
		m.report(t, errs[i], whole != nil)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, t := range batch {
		t.signing = false
		if t.err = errs[i]; t.err != nil {
			t.backoff = nextBackoff(t.backoff, t.err)
			t.due = now.Add(jittered(t.backoff))
			continue
		}
		t.svid, t.vouched, t.backoff = svids[i], trust.Bundles[trust.Domain], 0
		t.due = renewal(now, t.svid.Expiry)
	}
	close(m.done)
	m.done = make(chan struct{})
}

// report counts an outcome, and logs what concerns this one alone.
func (m *Tokens) report(t *token, err error, whole bool) {
	id, rule := t.of.match.ID.String(), t.of.match.Rule
	switch {
	case err == nil:
		m.cfg.Metrics.signed.WithLabelValues("ok").Inc()
		m.cfg.Log.Debug("JWT-SVID issued", "spiffe_id", id, "rule", rule)
	case whole:
		m.cfg.Metrics.signed.WithLabelValues("away").Inc()
	case Refused(err):
		m.cfg.Metrics.signed.WithLabelValues("refused").Inc()
		m.cfg.Log.Warn("JWT-SVID refused", "spiffe_id", id, "rule", rule, "error", err)
	default:
		m.cfg.Metrics.signed.WithLabelValues("error").Inc()
		m.cfg.Log.Warn("JWT-SVID not issued", "spiffe_id", id, "rule", rule, "error", err)
	}
}

// acceptJWT takes an answer only if it is what was asked for - our ID, our
// audience and no other - and verifies with the bundle of now.
func acceptJWT(t *token, result *pb.SignedJWT, trust Trust, now time.Time) (*spiffe.JWTSVID, error) {
	if text := result.GetError(); text != "" {
		return nil, answerError(text, result.GetErrorKind())
	}
	svid, err := spiffe.ParseJWT(result.GetToken())
	if err != nil {
		return nil, fmt.Errorf("server sent an unusable token: %w", err)
	}
	if id := t.of.match.ID; svid.ID != id {
		return nil, fmt.Errorf("server signed for %s instead of %s", svid.ID, id)
	}
	if audience := slices.Sorted(slices.Values(svid.Audience)); !slices.Equal(audience, t.audience) {
		return nil, fmt.Errorf("server signed for %q instead of %q", svid.Audience, t.audience)
	}
	switch {
	case !now.Before(svid.Expiry):
		return nil, fmt.Errorf("this clock is at least %s ahead of the server's: the token has ended", now.Sub(svid.Expiry).Round(time.Second))
	case svid.IssuedAt.After(now.Add(spiffe.JWTLeeway)):
		return nil, fmt.Errorf("this clock is at least %s behind the server's: the token is to come", svid.IssuedAt.Sub(now).Round(time.Second))
	}
	if svid, err = spiffe.ValidateJWT(result.GetToken(), checkOf(t.audience, trust, now)); err != nil {
		return nil, fmt.Errorf("server sent a token that does not verify: %w", err)
	}
	return svid, nil
}

// answerError is the error of one request of a batch, as the server told it.
func answerError(text, kind string) error {
	err := errors.New(text)
	switch kind {
	case fault.Denied.String(), fault.Invalid.String(), fault.NotFound.String(), fault.Conflict.String():
		return refused{err}
	}
	return err
}
