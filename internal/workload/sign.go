package workload

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// maxChain bounds the certificates of one answer.
const maxChain = 10

// refused is an error by which the server says that this identity is not for
// this workload; trying again soon does not help.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// Refused reports whether the server refused an identity, as opposed to being
// away.
func Refused(err error) bool {
	var r refused
	return errors.As(err, &r)
}

// sign makes a key for each entry, has the batch signed and hands out what came
// back. Keys are fresh in each attempt.
func (m *Identities) sign(ctx context.Context, batch []*entry) {
	keys := make([]*ecdsa.PrivateKey, 0, len(batch))
	csrs := make([]*pb.WorkloadCSR, 0, len(batch))
	for _, e := range batch {
		key, csr, err := newRequest()
		if err != nil {
			m.finish(batch, nil, nil, err)
			return
		}
		keys = append(keys, key)
		csrs = append(csrs, &pb.WorkloadCSR{Rule: e.rule, SpiffeId: e.id.String(), Attributes: e.attrs, Csr: csr})
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	results, err := m.cfg.Signer.SignWorkloads(ctx, csrs)
	if err == nil && len(results) != len(batch) {
		err = fmt.Errorf("server answered %d of %d requests", len(results), len(batch))
	}
	m.finish(batch, keys, results, err)
}

// newRequest makes a leaf key and a request that holds nothing but the key and
// the proof of possessing it.
func newRequest() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make workload key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	return key, csr, nil
}

// finish records the outcome of a batch. An SVID that is still valid stays when
// its renewal fails.
func (m *Identities) finish(batch []*entry, keys []*ecdsa.PrivateKey, results []*pb.SignedWorkload, err error) {
	trust, now := m.cfg.Trust(), m.cfg.Now()
	type outcome struct {
		issued *Issued
		err    error
	}
	outcomes := make([]outcome, len(batch))
	for i, e := range batch {
		if err != nil {
			outcomes[i].err = err
			continue
		}
		outcomes[i].issued, outcomes[i].err = m.cfg.form.accept(e.id, keys[i], results[i], trust, now)
	}
	m.mu.Lock()
	renewed := false
	for i, e := range batch {
		e.signing = false
		if e.err = outcomes[i].err; e.err != nil {
			e.fail(now)
		} else {
			e.issued, e.backoff = outcomes[i].issued, 0
			e.due = renewal(now, e.issued.NotAfter)
			m.watch(e, now)
			renewed = true
		}
		if e.again {
			e.again, e.due = false, now
		}
		e.notify()
	}
	m.mu.Unlock()
	m.report(batch, func(i int) error { return outcomes[i].err }, err)
	if renewed && m.cfg.Saved != nil {
		m.cfg.Saved()
	}
}

// fail spaces the next attempt. The caller holds mu.
func (e *entry) fail(now time.Time) {
	e.backoff = nextBackoff(e.backoff, e.err)
	e.due = now.Add(jittered(e.backoff))
}

// nextBackoff is how long to wait at most after one more failure.
func nextBackoff(backoff time.Duration, err error) time.Duration {
	switch {
	case Refused(err):
		return maxRetry
	case backoff == 0:
		return minRetry
	default:
		return min(2*backoff, maxRetry)
	}
}

// jittered keeps those who failed together from coming back together.
func jittered(backoff time.Duration) time.Duration {
	return backoff/2 + mathrand.N(backoff/2+1)
}

// report logs a failed call once, and each refusal.
func (m *Identities) report(batch []*entry, errOf func(int) error, whole error) {
	if whole != nil {
		m.cfg.Metrics.signed.WithLabelValues("away").Add(float64(len(batch)))
		m.cfg.Log.Warn("sign workloads", "requests", len(batch), "error", whole)
		return
	}
	for i, e := range batch {
		switch err := errOf(i); {
		case err == nil:
			m.cfg.Metrics.signed.WithLabelValues("ok").Inc()
			m.cfg.Log.Debug("svid issued", "spiffe_id", e.id.String(), "rule", e.rule)
		case Refused(err):
			m.cfg.Metrics.signed.WithLabelValues("refused").Inc()
			m.cfg.Log.Warn("svid refused", "spiffe_id", e.id.String(), "rule", e.rule, "error", err)
		default:
			m.cfg.Metrics.signed.WithLabelValues("error").Inc()
			m.cfg.Log.Warn("svid not issued", "spiffe_id", e.id.String(), "rule", e.rule, "error", err)
		}
	}
}

// accept takes an answer only if it is what was asked for: our key, our ID, and
// a chain that verifies with the bundle of now.
func accept(id spiffe.ID, key *ecdsa.PrivateKey, result *pb.SignedWorkload, trust Trust, now time.Time) (*Issued, error) {
	if text := result.GetError(); text != "" {
		return nil, answerError(text, result.GetErrorKind())
	}
	if n := len(result.GetChain()); n == 0 || n > maxChain {
		return nil, fmt.Errorf("server sent a chain of %d certificates", n)
	}
	var chain []byte
	for _, der := range result.GetChain() {
		chain = append(chain, der...)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("marshal workload key: %w", err)
	}
	svid, err := spiffe.ParseX509SVID(chain, pkcs8)
	if err != nil {
		return nil, fmt.Errorf("server sent an unusable svid: %w", err)
	}
	if svid.ID != id {
		return nil, fmt.Errorf("server signed %s instead of %s", svid.ID, id)
	}
	if _, err := spiffe.Verify(svid.Certificates, trust.Bundles.Bundle, now); err != nil {
		return nil, skewed(svid.Certificates[0], now, err)
	}
	return &Issued{ID: id, Chain: chain, Key: pkcs8, NotAfter: svid.Expiry(), issuedAt: now}, nil
}

// skewed names the clocks when a fresh certificate is not valid now: nothing
// else makes it so.
func skewed(leaf *x509.Certificate, now time.Time, err error) error {
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("this clock is at least %s behind the server's: %w", leaf.NotBefore.Sub(now).Round(time.Second), err)
	case now.After(leaf.NotAfter):
		return fmt.Errorf("this clock is at least %s ahead of the server's: %w", now.Sub(leaf.NotAfter).Round(time.Second), err)
	}
	return fmt.Errorf("server sent an svid that does not verify: %w", err)
}

func (i *Issued) verify(trust Trust, now time.Time) error {
	if i.Token != "" {
		_, err := spiffe.ValidateWIT(i.Token, spiffe.WITCheck{Bundle: trust.Bundles.Bundle, Now: now})
		return err
	}
	chain, err := x509.ParseCertificates(i.Chain)
	if err != nil {
		return err
	}
	_, err = spiffe.Verify(chain, trust.Bundles.Bundle, now)
	return err
}
