package server

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// federated is the bundles of the trust domains there is a relationship with,
// each under its own name. SPIFFE Federation 4.2: they are never merged.
func (s *snapshot) federated() []*pb.Bundle {
	var out []*pb.Bundle
	for _, name := range slices.Sorted(maps.Keys(s.bundles)) {
		if _, here := s.federations[name]; here {
			out = append(out, &pb.Bundle{TrustDomain: name, Jwks: s.bundles[name].Document})
		}
	}
	return out
}

// bundleOf is what there is of another trust domain; false before the first
// bundle came.
func (s *snapshot) bundleOf(td spiffe.TrustDomain) (*spiffe.Bundle, bool) {
	if _, here := s.federations[td.String()]; !here {
		return nil, false
	}
	held, ok := s.bundles[td.String()]
	return held.Bundle, ok
}

// bundle is what a change of a relationship does to the bundle that is kept of
// the trust domain: the end of the one ends the other, in one transaction
// (SPIFFE Federation 6.3), and a bundle an operator gives replaces it.
func (e edit) bundle(now time.Time) ([]registry.Op, error) {
	if e.key.kind != registry.KindFederation {
		return nil, nil
	}
	given := e.after.GetFederation().GetBundle()
	switch {
	case e.after == nil:
		return []registry.Op{registry.Delete(registry.BundleKey(e.key.name))}, nil
	case len(given) == 0 || bytes.Equal(given, e.before.GetFederation().GetBundle()):
		return nil, nil
	}
	td, err := spiffe.ParseTrustDomain(e.key.name)
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	op, err := putBundle(td, given, now)
	return []registry.Op{op}, err
}

func putBundle(td spiffe.TrustDomain, document []byte, now time.Time) (registry.Op, error) {
	record, err := registry.NewFederatedBundle(td, document, now)
	if err != nil {
		return registry.Op{}, err
	}
	value, err := record.Marshal()
	if err != nil {
		return registry.Op{}, fmt.Errorf("bundle of %s: %w", td, err)
	}
	return registry.Put(registry.BundleKey(td.String()), value), nil
}

// widened warns of what a change of relationships does to rules that stay.
func (p *planner) widened() []string {
	var out []string
	for _, e := range p.edits {
		if e.key.kind != registry.KindFederation {
			continue
		}
		for _, name := range p.next.policy.RuleNames() {
			r, _ := p.next.policy.Rule(name)
			switch {
			case e.verb == "create" && len(r.Allow) > 0 && slices.Contains(r.From, "any"):
				out = append(out, fmt.Sprintf("rules.%s.from: any is every workload of %s as well, once its bundle is here", name, e.key.name))
			case e.verb == "delete" && slices.ContainsFunc(r.From, func(from string) bool { return strings.HasPrefix(from, "spiffe://"+e.key.name+"/") }):
				out = append(out, fmt.Sprintf("rules.%s.from: names %s, whose workloads are trusted no more", name, e.key.name))
			}
		}
	}
	return out
}

// keepBundle makes what the endpoint of a trust domain gave the bundle of it,
// everywhere. It is a change like any other, with a revision of its own.
func (s *Server) keepBundle(ctx context.Context, td spiffe.TrustDomain, document []byte) error {
	select {
	case s.changing <- struct{}{}:
		defer func() { <-s.changing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for try := 1; ; try++ {
		err := s.tryKeepBundle(ctx, td, document)
		if !fault.Is(err, fault.Conflict) || try == conflictTries {
			return err
		}
		if err := s.arriveLatest(ctx); err != nil {
			return err
		}
	}
}

func (s *Server) tryKeepBundle(ctx context.Context, td spiffe.TrustDomain, document []byte) error {
	snap := s.snap()
	if _, here := snap.federations[td.String()]; !here {
		return fault.NotFoundf("the relationship with %s has ended", td)
	}
	total := len(document)
	for name, held := range snap.bundles {
		if name != td.String() {
			total += len(held.Document)
		}
	}
	if total > registry.MaxFederatedTotal {
		return fault.Invalidf("the bundles of all trust domains together would have %d bytes, at most %d", total, registry.MaxFederatedTotal)
	}
	op, err := putBundle(td, document, s.cfg.Now())
	if err != nil {
		return err
	}
	if held, ok := snap.bundles[td.String()]; ok && held.Bundle.Equal(bundleIn(op)) {
		return nil
	}
	if err := s.writable(); err != nil {
		return err
	}
	revision := snap.revision + 1
	txn := registry.Txn{
		If: []registry.Condition{
			registry.IfUnchanged(snap.counter),
			registry.IfExists(registry.ObjectKey(registry.KindFederation, td.String())),
		},
		Do: []registry.Op{registry.Put(revisionKey, revisionValue(revision)), op},
	}
	event := audit.Event{Kind: audit.Changed, Actor: s.id.String(), Object: "bundle of " + td.String(), Revision: revision}
	version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
	if err != nil {
		return err
	}
	return s.arrive(ctx, version)
}

// bundleIn is the bundle that putBundle made an operation of.
func bundleIn(op registry.Op) *spiffe.Bundle {
	record, err := registry.StoredBundle(op.Value)
	if err != nil {
		return nil
	}
	return record.Bundle
}
