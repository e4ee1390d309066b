package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// domain is the value of registry.DomainKey: what a trust domain is called and
// which history its revisions count.
type domain struct {
	TrustDomain string    `json:"trust_domain"`
	Epoch       uint64    `json:"epoch"`
	Created     time.Time `json:"created"`

	trustDomain spiffe.TrustDomain
}

func parseDomain(value []byte) (domain, error) {
	var d domain
	if err := json.Unmarshal(value, &d); err != nil {
		return d, fmt.Errorf("trust domain record: %w", err)
	}
	var err error
	if d.trustDomain, err = spiffe.ParseTrustDomain(d.TrustDomain); err != nil {
		return d, fmt.Errorf("trust domain record: %w", err)
	}
	if d.Epoch == 0 {
		return d, fault.Invalidf("trust domain record: no epoch")
	}
	return d, nil
}

// startingObjects is what a new trust domain begins with. A dev server gets the
// class of its one node as well.
func startingObjects(td spiffe.TrustDomain, dev bool) []*pb.Object {
	set := registry.StartingSet(td)
	if dev {
		rule := set.NodeRules["vms"]
		rule.Name = devClass
		set.NodeRules[devClass] = rule
	}
	var out []*pb.Object
	for _, rule := range set.NodeRules {
		out = append(out, &pb.Object{Kind: &pb.Object_NodeRule{NodeRule: rule.PB()}})
	}
	for _, rule := range set.IdentityRules {
		out = append(out, &pb.Object{Kind: &pb.Object_IdentityRule{IdentityRule: rule.PB()}})
	}
	return out
}

// bootstrap makes the trust domain in an empty store, in one transaction: of
// two servers that start at once one makes it and the other finds it. A store
// of another trust domain is refused.
func bootstrap(ctx context.Context, cfg Config) error {
	item, err := cfg.Store.Get(ctx, registry.DomainKey)
	if err == nil {
		return sameDomain(item.Value, cfg.TrustDomain)
	}
	if !fault.Is(err, fault.NotFound) {
		return fmt.Errorf("read the trust domain: %w", err)
	}
	if cfg.TrustDomain.IsZero() {
		return fault.Hint(fault.Invalidf("trust_domain: empty, and this server has none yet"),
			"kith server --trust-domain acme.example, or trust_domain: in kith.yaml")
	}
	now := cfg.Now()
	// Of milliseconds, so that a throw-away store that starts over never counts
	// in the epoch of the one before.
	record, err := json.Marshal(domain{TrustDomain: cfg.TrustDomain.String(), Epoch: uint64(max(now.UnixMilli(), 1)), Created: now.UTC()})
	if err != nil {
		return fmt.Errorf("trust domain record: %w", err)
	}
	txn := registry.Txn{
		If: []registry.Condition{registry.IfAbsent(registry.DomainKey), registry.IfAbsent(revisionKey)},
		Do: []registry.Op{
			registry.Put(registry.DomainKey, record),
			registry.Put(revisionKey, revisionValue(1)),
			registry.Put(clockKey, clockValue(now)),
		},
	}
	root, err := newRootOp(cfg)
	if err != nil {
		return err
	}
	ring, err := newJWTRingOp(cfg)
	if err != nil {
		return err
	}
	txn.Do = append(txn.Do, root, ring)
	for _, object := range startingObjects(cfg.TrustDomain, cfg.Dev) {
		op, err := putObject(object)
		if err != nil {
			return err
		}
		txn.Do = append(txn.Do, op)
	}
	_, err = cfg.Store.Commit(ctx, txn)
	if err != nil && !fault.Is(err, fault.Conflict) && !errors.Is(err, registry.ErrUncertain) {
		return fmt.Errorf("create trust domain %s: %w", cfg.TrustDomain, err)
	}
	if item, err = cfg.Store.Get(ctx, registry.DomainKey); err != nil {
		return fmt.Errorf("read the trust domain: %w", err)
	}
	return sameDomain(item.Value, cfg.TrustDomain)
}

func sameDomain(value []byte, want spiffe.TrustDomain) error {
	d, err := parseDomain(value)
	if err != nil {
		return err
	}
	if !want.IsZero() && d.trustDomain != want {
		return fault.Hint(fault.Conflictf("this server's store belongs to trust domain %s, the configuration says %s", d.trustDomain, want),
			"trust_domain: %s in kith.yaml, or another state directory", d.trustDomain)
	}
	return nil
}

// putObject is the store operation that keeps an object.
func putObject(object *pb.Object) (registry.Op, error) {
	key, _, err := keyOf(object)
	if err != nil {
		return registry.Op{}, err
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(object)
	if err != nil {
		return registry.Op{}, fmt.Errorf("%s: %w", key, err)
	}
	return registry.Put(registry.ObjectKey(key.kind, key.name), value), nil
}
