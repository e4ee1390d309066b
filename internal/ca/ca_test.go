package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

func TestLifetimesNest(t *testing.T) {
	f := newFixture(t)
	chain, err := f.Sign(t.Context(), request(t, "/a"))
	if err != nil {
		t.Fatal(err)
	}
	leaf, issuing, root := chain[0], chain[1], f.Root()
	if !leaf.NotAfter.Equal(epoch.Add(time.Hour)) || !issuing.NotAfter.Equal(epoch.Add(2*time.Hour)) {
		t.Errorf("leaf ends %s, issuing CA %s", leaf.NotAfter, issuing.NotAfter)
	}
	if !leaf.NotBefore.Equal(epoch.Add(-10 * time.Minute)) {
		t.Errorf("leaf begins %s", leaf.NotBefore)
	}
	if issuing.NotAfter.After(root.NotAfter) || issuing.NotBefore.Before(root.NotBefore) {
		t.Error("issuing CA is valid when the root is not")
	}
}

func TestIssuingIsRenewedAtHalfLife(t *testing.T) {
	f := newFixture(t)
	first := f.current.Load().cert
	for range 40 { // 20 hours, a leaf each half hour
		f.clock.move(30 * time.Minute)
		chain, err := f.Sign(t.Context(), request(t, "/a"))
		if err != nil {
			t.Fatal(err)
		}
		if left := chain[0].NotAfter.Sub(f.clock.Now()); left != time.Hour {
			t.Fatalf("leaf lives %s", left)
		}
		if _, err := spiffe.Verify(chain, f.bundles, f.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if f.current.Load().cert.Equal(first) {
		t.Error("the issuing CA is still the first")
	}
	issuing := 0
	for _, e := range f.entries(t) {
		if e.Kind == IssuingEntry {
			issuing++
		}
	}
	if issuing != 21 {
		t.Errorf("%d issuing CAs were journalled, want one at the start and one an hour", issuing)
	}
}

func TestIssuingEndsWithTheRoot(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		root, err := NewRoot(RootConfig{TrustDomain: c.TrustDomain, KEK: c.KEK, Now: epoch, TTL: 90 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		c.Root = root
	})
	end := epoch.Add(90 * time.Minute)
	if got := f.Status(); !got.IssuingNotAfter.Equal(end) || !got.RootNotAfter.Equal(end) {
		t.Errorf("status is %+v", got)
	}
	f.clock.move(time.Hour)
	chain, err := f.Sign(t.Context(), request(t, "/a"))
	if err != nil || !chain[0].NotAfter.Equal(end) {
		t.Fatalf("leaf: %v", err)
	}
	f.clock.move(30 * time.Minute)
	if _, err := f.Sign(t.Context(), request(t, "/a")); err == nil || !strings.Contains(err.Error(), "root expires") {
		t.Errorf("with an expired root: %v", err)
	}
}

// A renewal that fails is no outage as long as the present issuing CA serves.
func TestFailedRenewalKeepsThePresentOne(t *testing.T) {
	f := newFixture(t)
	create := f.create
	f.create = func(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
		if template.IsCA {
			return nil, errors.New("no hardware")
		}
		return create(template, parent, key, signer)
	}
	f.clock.move(70 * time.Minute)
	if _, err := f.Sign(t.Context(), request(t, "/a")); err != nil {
		t.Fatalf("with 50 minutes left: %v", err)
	}
	if f.Status().RenewError == nil {
		t.Error("status does not tell")
	}
	f.clock.move(50 * time.Minute)
	if _, err := f.Sign(t.Context(), request(t, "/a")); err == nil || !strings.Contains(err.Error(), "no hardware") {
		t.Errorf("with nothing left: %v", err)
	}
	f.create = create
	if _, err := f.Sign(t.Context(), request(t, "/a")); err != nil || f.Status().RenewError != nil {
		t.Errorf("after the hardware is back: %v, %v", err, f.Status().RenewError)
	}
}

func TestClockBehindRefuses(t *testing.T) {
	f := newFixture(t)
	f.clock.move(24 * time.Hour)
	if _, err := f.Sign(t.Context(), request(t, "/a")); err != nil {
		t.Fatal(err)
	}
	f.clock.move(-5 * time.Second) // within what a clock may be stepped
	if _, err := f.Sign(t.Context(), request(t, "/a")); err != nil {
		t.Fatalf("5 s back: %v", err)
	}
	f.clock.move(-24 * time.Hour)
	_, err := f.Sign(t.Context(), request(t, "/a"))
	if err == nil || !strings.Contains(err.Error(), "issued already") || fault.HintOf(err) == "" {
		t.Fatalf("a day back: %v", err)
	}
	// The time outlives the process, and what it had shipped.
	f.entries(t)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := New(t.Context(), f.config); err == nil || !strings.Contains(err.Error(), "issued already") {
		t.Errorf("started with a clock a day back: %v", err)
	}
	f.clock.move(25 * time.Hour)
	f.CA = nil
	f.start(t)
}

func TestExhaustedJournalStopsIssuing(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.JournalBytes = smallJournal })
	registry := prometheus.NewRegistry()
	f.config.Metrics = registry
	f.start(t)
	var err error
	var alarm bool
	for err == nil {
		_, err = f.Sign(t.Context(), request(t, "/a"))
		if !alarm && f.Status().JournalAlarm {
			alarm = true
			if used := f.Status().JournalUsed; used > 0.55 {
				t.Errorf("alarm only at %v", used)
			}
		}
	}
	if !alarm || refusedBy(err) != refusedJournal {
		t.Fatalf("alarm %t, error %v", alarm, err)
	}
	if got := testutil.ToFloat64(f.metrics.refused.WithLabelValues("journal")); got != 1 {
		t.Errorf("refusals counted: %v", got)
	}
	f.entries(t)
	if _, err := f.Sign(t.Context(), request(t, "/a")); err != nil {
		t.Errorf("after the journal was shipped: %v", err)
	}
	if n, err := testutil.GatherAndCount(registry, "kith_ca_issued_total", "kith_ca_journal_used_ratio", "kith_ca_root_expires_timestamp_seconds", "kith_ca_issuing_expires_timestamp_seconds"); err != nil || n != 4 {
		t.Errorf("%d metrics, %v", n, err)
	}
}

func TestRunShipsAndEnds(t *testing.T) {
	shipped := make(chan []Entry, 8)
	f := newFixture(t, func(c *Config) {
		c.Ship = func(_ context.Context, entries []Entry) error {
			shipped <- entries
			return nil
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	if first := <-shipped; first[0].Kind != IssuingEntry {
		t.Errorf("first entry is %+v", first[0])
	}
	if _, err := f.Sign(t.Context(), request(t, "/last")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if last := <-shipped; last[0].ID != "spiffe://acme.example/last" {
		t.Errorf("last entry is %+v", last[0])
	}
}

func TestRestartKeepsTheBundle(t *testing.T) {
	f := newFixture(t)
	before, chain := f.Bundle(), mustSign(t, f, "/a")
	f.start(t)
	if !f.Bundle().Equal(before) || len(before.Roots()) != 1 {
		t.Error("a restart changed the bundle")
	}
	if f.current.Load().cert.Equal(chain[1]) {
		t.Error("the issuing CA outlived its process")
	}
	if _, err := spiffe.Verify(chain, f.bundles, epoch); err != nil {
		t.Errorf("what was issued before the restart: %v", err)
	}
}

func mustSign(t testing.TB, f *fixture, path string) []*x509.Certificate {
	t.Helper()
	chain, err := f.Sign(t.Context(), request(t, path))
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestRootAtRest(t *testing.T) {
	f := newFixture(t)
	cert, err := RootCertificate(f.config.Root)
	if err != nil || !cert.Equal(f.Root()) {
		t.Fatalf("RootCertificate: %v", err)
	}
	key, err := f.root.open(f.config.KEK, f.td)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if bytes.Contains(f.config.Root, []byte("PRIVATE")) {
		t.Error("the stored root holds a key in the clear")
	}
}

func TestNewRefuses(t *testing.T) {
	f := newFixture(t)
	other, err := keys.FileKEK(filepath.Join(t.TempDir(), "kek"))
	if err != nil {
		t.Fatal(err)
	}
	td, err := spiffe.ParseTrustDomain("other.example")
	if err != nil {
		t.Fatal(err)
	}
	// The certificate of one root beside the key of another.
	stranger, err := NewRoot(RootConfig{TrustDomain: f.td, KEK: f.config.KEK, Now: epoch})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		why    string
		change func(*Config)
	}{
		"wrong KEK":          {"does not open", func(c *Config) { c.KEK = other }},
		"other trust domain": {"not other.example", func(c *Config) { c.TrustDomain = td }},
		"no root":            {"cannot be read", func(c *Config) { c.Root = nil }},
		"mixed root":         {"not the certificate's", func(c *Config) { c.Root = mixRoots(t, c.Root, stranger) }},
		"no server":          {"server name", func(c *Config) { c.Server = "" }},
		"long server":        {"server name", func(c *Config) { c.Server = strings.Repeat("a", 52) }},
		"no clock":           {"must be given", func(c *Config) { c.Now = nil }},
		"short lifetimes":    {"do not fit", func(c *Config) { c.Lifetimes = Lifetimes{Leaf: time.Hour, Issuing: time.Hour} }},
		"expired root":       {"root expires", func(c *Config) { c.Now = func() time.Time { return epoch.AddDate(11, 0, 0) } }},
		"journal in no dir":  {"journal", func(c *Config) { c.JournalPath = "/nonexistent/journal" }},
	} {
		config := f.config
		config.JournalPath = filepath.Join(t.TempDir(), "journal")
		c.change(&config)
		_, err := New(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
		if err := os.Remove(config.JournalPath); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
}

func TestNewRootRefuses(t *testing.T) {
	kek, err := keys.PassphraseKEK([]byte("correct horse battery"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]RootConfig{
		"":             {KEK: kek, Now: epoch},
		"a..b":         {KEK: kek, Now: epoch}, // no certificate can carry it
		"acme.example": {KEK: kek, Now: epoch, TTL: time.Second},
		"b.example":    {KEK: kek, Now: epoch, TTL: 31 * 365 * 24 * time.Hour},
	} {
		c.TrustDomain, _ = spiffe.ParseTrustDomain(name)
		if _, err := NewRoot(c); err == nil {
			t.Errorf("%q, %s: a root was made", name, c.TTL)
		}
	}
}

func TestLifetimesFor(t *testing.T) {
	got, err := LifetimesFor(30 * time.Minute)
	if err != nil || got != DefaultLifetimes() || got.Leaf != time.Hour || got.Issuing != 2*time.Hour {
		t.Errorf("LifetimesFor(30 min) = %+v, %v", got, err)
	}
	if got, err := LifetimesFor(12 * time.Hour); err != nil || got.Leaf != 24*time.Hour || got.Issuing != 48*time.Hour {
		t.Errorf("LifetimesFor(12 h) = %+v, %v", got, err)
	}
	for _, bad := range []time.Duration{-1, 0, time.Second, 85 * time.Hour} {
		if _, err := LifetimesFor(bad); !fault.Is(err, fault.Invalid) || fault.HintOf(err) == "" {
			t.Errorf("LifetimesFor(%s): %v", bad, err)
		}
	}
	for ttl, ok := range map[time.Duration]bool{0: true, 10 * time.Second: true, time.Hour: true, time.Second: false, -1: false, time.Hour + 1: false} {
		if err := DefaultLifetimes().CheckTTL(ttl); (err == nil) != ok {
			t.Errorf("CheckTTL(%s) = %v", ttl, err)
		}
	}
}

func TestBrokenJournalEndsRun(t *testing.T) {
	f := newFixture(t)
	f.journal.disk.Lock()
	f.journal.ring.file = &disk{syncErr: syscall.EIO, written: make([]byte, 2<<20), dirty: map[int]bool{}, until: -1}
	f.journal.disk.Unlock()
	if _, err := f.Sign(t.Context(), request(t, "/a")); !errors.Is(err, syscall.EIO) {
		t.Fatalf("signed with a journal that cannot be synced: %v", err)
	}
	if err := f.Run(t.Context()); !errors.Is(err, syscall.EIO) || fault.HintOf(err) == "" {
		t.Errorf("Run ended with %v, want EIO and what to do", err)
	}
}
