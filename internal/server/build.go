package server

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// change is what one batch of the store did, as far as it matters here.
type change struct {
	put     map[objectKey]*pb.Object
	deleted []objectKey
	nodes   []string // whose record changed
	bundles bool     // the keys in the bundle changed
	admins  bool
}

// counts says whether the change is of what agents hold: it has a revision.
func (c change) counts() bool { return len(c.put)+len(c.deleted) > 0 || c.bundles }

// touches says whether an object of one of the kinds changed.
func (c change) touches(kinds ...registry.Kind) bool {
	for key := range c.put {
		if slices.Contains(kinds, key.kind) {
			return true
		}
	}
	return slices.ContainsFunc(c.deleted, func(k objectKey) bool { return slices.Contains(kinds, k.kind) })
}

// advance builds the snapshot after a batch.
func (s *snapshot) advance(batch registry.Batch, now time.Time) (*snapshot, change, error) {
	next := *s
	b := &builder{next: &next, shared: true, versionOf: func(string) registry.Version { return batch.Version }}
	for _, e := range batch.Events {
		if err := b.apply(e); err != nil {
			return nil, change{}, err
		}
	}
	done, err := b.finish(batch.Version, now)
	return done, b.change, err
}

// builder makes the next snapshot; it copies a map before its first write.
type builder struct {
	next      *snapshot
	change    change
	shared    bool // the maps belong to an older snapshot
	copied    struct{ objects, members, admins, bundles bool }
	ahead     *pb.Object // of the next event, where it was decoded already
	versionOf func(key string) registry.Version
}

func (b *builder) apply(e registry.Event) error {
	switch {
	case e.Key == registry.DomainKey:
		return fault.Conflictf("the trust domain's record changed; everything is to be read anew")
	case e.Key == revisionKey:
		revision, mark, err := parseRevision(e.Value)
		if err != nil {
			return err
		}
		b.next.revision, b.next.mark = revision, mark
		b.next.counter = registry.Item{Key: e.Key, Value: e.Value, Version: b.versionOf(e.Key)}
	case e.Key == registry.JWTRingKey:
		b.next.jwtRing = registry.Item{Key: e.Key, Value: e.Value, Version: b.versionOf(e.Key)}
		b.change.bundles = true
	case strings.HasPrefix(e.Key, registry.ObjectPrefix):
		return b.object(e)
	case strings.HasPrefix(e.Key, registry.NodePrefix):
		return b.member(e)
	case strings.HasPrefix(e.Key, registry.BundlePrefix):
		return b.bundle(e)
	case strings.HasPrefix(e.Key, registry.AdminPrefix):
		return b.admin(e)
	}
	return nil
}

func (b *builder) object(e registry.Event) error {
	kind, name, ok := registry.ParseObjectKey(e.Key)
	if !ok {
		return fault.Invalidf("object %s of a kind this version does not know", e.Key)
	}
	if b.shared && !b.copied.objects {
		b.next.state, b.copied.objects = b.next.clone(), true
	}
	key := objectKey{kind, name}
	if e.Deleted {
		b.next.remove(key)
		b.change.deleted = append(b.change.deleted, key)
		return nil
	}
	object := b.ahead
	if b.ahead = nil; object == nil {
		object = &pb.Object{}
		if err := proto.Unmarshal(e.Value, object); err != nil {
			return fmt.Errorf("object %s: %w", e.Key, err)
		}
	}
	if own, _, err := keyOf(object); err == nil && own == key {
		key = own // one text for both
	}
	if !b.shared {
		return b.next.put(key, object, e.Value)
	}
	if b.change.put == nil {
		b.change.put = map[objectKey]*pb.Object{}
	}
	b.change.put[key] = object
	return b.next.put(key, object, e.Value)
}

func (b *builder) bundle(e registry.Event) error {
	if b.shared && !b.copied.bundles {
		b.next.bundles, b.copied.bundles = maps.Clone(b.next.bundles), true
	}
	b.change.bundles = true
	name := strings.TrimPrefix(e.Key, registry.BundlePrefix)
	if e.Deleted {
		delete(b.next.bundles, name)
		return nil
	}
	held, err := registry.StoredBundle(e.Value)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Key, err)
	}
	if held.TrustDomain != name {
		return fault.Invalidf("%s holds the bundle of %s", e.Key, held.TrustDomain)
	}
	b.next.bundles[name] = held
	return nil
}

func (b *builder) member(e registry.Event) error {
	b.ownMembers()
	name := strings.TrimPrefix(e.Key, registry.NodePrefix)
	b.change.nodes = append(b.change.nodes, name)
	if old, ok := b.next.members[name]; ok {
		delete(b.next.byKey, old.node.KeyHash)
		delete(b.next.members, name)
	}
	if e.Deleted {
		return nil
	}
	node, err := registry.ParseNode(e.Value)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Key, err)
	}
	item := registry.Item{Key: e.Key, Value: e.Value, Version: b.versionOf(e.Key)}
	b.next.members[name] = member{node: node, item: item}
	b.next.byKey[node.KeyHash] = name
	return nil
}

func (b *builder) ownMembers() {
	if !b.shared || b.copied.members {
		return
	}
	b.copied.members = true
	b.next.members = maps.Clone(b.next.members)
	b.next.byKey = maps.Clone(b.next.byKey)
}

func (b *builder) finish(version registry.Version, now time.Time) (*snapshot, error) {
	b.next.version = version
	b.next.changedAt = now
	if b.shared && !b.change.touches(registry.KindNode, registry.KindIdentity) {
		return b.next, nil
	}
	var err error
	b.next.nodes, b.next.identities, _, err = b.next.rules.Compile()
	if err != nil {
		return nil, fmt.Errorf("rules of the store: %w", err)
	}
	b.next.reach = b.next.identities.Reach()
	return b.next, nil
}
