package ca

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/spiffe"
)

// clock is a time that tests move.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// fixture is a CA on a clock.
type fixture struct {
	*CA
	clock  *clock
	config Config
	late   []string // nodes that have acked nothing
}

func newFixture(t testing.TB, changes ...func(*Config)) *fixture {
	t.Helper()
	at := &clock{now: epoch}
	dir := t.TempDir()
	kek, err := keys.FileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		t.Fatal(err)
	}
	td, err := spiffe.ParseTrustDomain("acme.example")
	if err != nil {
		t.Fatal(err)
	}
	root, err := NewRoot(RootConfig{TrustDomain: td, KEK: kek, Now: epoch})
	if err != nil {
		t.Fatal(err)
	}
	config := Config{
		TrustDomain: td, Server: "a", Root: root, KEK: kek, Now: at.Now,
		JournalPath: filepath.Join(dir, "journal"), JournalBytes: 1 << 20,
	}
	for _, change := range changes {
		change(&config)
	}
	f := &fixture{clock: at, config: config}
	f.start(t)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// start makes the CA, again if it ran before.
func (f *fixture) start(t testing.TB) {
	t.Helper()
	if f.CA != nil {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if f.CA, err = New(t.Context(), f.config); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) entries(t testing.TB) []Entry {
	t.Helper()
	var all []Entry
	err := f.Drain(t.Context(), func(_ context.Context, entries []Entry) error {
		all = append(all, entries...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (f *fixture) bundles(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	return f.Bundle(), td == f.Bundle().TrustDomain()
}

func request(t testing.TB, path string) Request {
	t.Helper()
	id, err := spiffe.ParseID("spiffe://acme.example" + path)
	if err != nil {
		t.Fatal(err)
	}
	return Request{ID: id, PublicKey: newKey(t).Public(), Requester: "spiffe://acme.example/kith/node/n", Rule: "pods", Revision: 7}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mixRoots is the certificate of one stored root beside the key of another.
func mixRoots(t testing.TB, certificate, key []byte) []byte {
	t.Helper()
	var a, b storedRoot
	if err := errors.Join(json.Unmarshal(certificate, &a), json.Unmarshal(key, &b)); err != nil {
		t.Fatal(err)
	}
	a.Key = b.Key
	mixed, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return mixed
}
