package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// ownSource is the server's own identity, issued by itself and renewed at half
// life. Its chain ends with the root, so that a node that knows only the pin
// finds it there.
type ownSource struct {
	ca  *ca.CA
	id  spiffe.ID
	now func() time.Time

	current  atomic.Pointer[spiffe.X509SVID]
	renewing sync.Mutex
}

func newOwnSource(authority *ca.CA, id spiffe.ID, now func() time.Time) *ownSource {
	return &ownSource{ca: authority, id: id, now: now}
}

// X509SVID is the current SVID. One that has ended, because the host slept or
// its clock was set, is renewed by the first handshake that asks.
func (o *ownSource) X509SVID() (*spiffe.X509SVID, error) {
	svid := o.current.Load()
	if svid == nil {
		return nil, errors.New("no SVID yet")
	}
	if o.now().Before(svid.Expiry()) {
		return svid, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := o.renew(ctx); err != nil {
		return nil, err
	}
	return o.current.Load(), nil
}

// Bundle is the roots of the own trust domain.
func (o *ownSource) Bundle(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	bundle := o.ca.Bundle()
	return bundle, td == bundle.TrustDomain()
}

// renew signs a new SVID for a new key, unless somebody else just has.
func (o *ownSource) renew(ctx context.Context) error {
	before := o.current.Load()
	o.renewing.Lock()
	defer o.renewing.Unlock()
	if o.current.Load() != before {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	chain, err := o.ca.Sign(ctx, ca.Request{ID: o.id, PublicKey: key.Public(), Requester: o.id.String(), Rule: "server"})
	if err != nil {
		return err
	}
	o.current.Store(&spiffe.X509SVID{ID: o.id, Certificates: append(chain, o.ca.Root()), PrivateKey: key})
	return nil
}

// run renews at half life until ctx ends. What fails is tried again: the
// present SVID serves meanwhile.
func (o *ownSource) run(ctx context.Context) error {
	for {
		svid := o.current.Load()
		leaf := svid.Certificates[0]
		half := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
		// Looked at every minute at least, as a host may sleep.
		timer := time.NewTimer(min(max(half.Sub(o.now()), time.Second), time.Minute))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		if o.now().Before(half) {
			continue
		}
		_ = o.renew(ctx) // the CA has logged and counted why
	}
}

// newRootOp makes a root and the operation that keeps it sealed in the store.
func newRootOp(cfg Config) (registry.Op, error) {
	stored, err := ca.NewRoot(ca.RootConfig{TrustDomain: cfg.TrustDomain, KEK: cfg.KEK, Now: cfg.Now()})
	if err != nil {
		return registry.Op{}, err
	}
	cert, err := ca.RootCertificate(stored)
	if err != nil {
		return registry.Op{}, err
	}
	return registry.Put(registry.RootKey(rootName(cert)), stored), nil
}

func rootName(cert *x509.Certificate) string {
	pin := spiffe.PinOf(cert)
	return registry.Hash(pin).String()
}

// rootOf finds the sealed root among the store's items.
func rootOf(items []registry.Item) ([]byte, error) {
	var found []byte
	for _, item := range items {
		if len(item.Key) > len(registry.RootPrefix) && item.Key[:len(registry.RootPrefix)] == registry.RootPrefix {
			if found != nil {
				return nil, fault.Invalidf("the store holds more than one root")
			}
			found = item.Value
		}
	}
	if found == nil {
		return nil, fault.Invalidf("the store holds a trust domain but no root")
	}
	return found, nil
}
