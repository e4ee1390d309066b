package server

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/spiffe"
)

// Keys of our own below meta/. The revision counts changes of applied state
// only: the store's version also moves with tokens, nodes and journals, and
// agents are not to be told of those.
const (
	revisionKey = "meta/revision"
	clockKey    = "meta/clock"
)

// member is a node record and the version it was read at.
type member struct {
	node registry.Node
	item registry.Item
}

// snapshot is everything the server knows of the store, at one version of it.
// It is immutable; a change makes a new one that shares what did not change.
type snapshot struct {
	trustDomain spiffe.TrustDomain
	epoch       uint64
	version     registry.Version
	revision    uint64
	mark        uint64        // of the revision: tells two histories apart
	counter     registry.Item // the item of revisionKey
	changedAt   time.Time     // when this server learned of the revision
	jwtRing     registry.Item // the item of registry.JWTRingKey

	state // applied state and its two readings

	nodes      *registry.Nodes
	identities *registry.Identities
	reach      []registry.Reach

	members map[string]member
	byKey   map[registry.Hash]string
	admins  map[string]adminEntry
	bundles map[string]registry.FederatedBundle // of other trust domains, by name
}

// identitiesOf is the whole SPIFFE IDs of a service. They were parsed when it was
// applied; the directory has a hundred thousand of them to write.
func (s *snapshot) identitiesOf(service string) []string {
	found, _ := s.policy.Service(service)
	identities := found.Identities
	out := make([]string, len(identities))
	for i, id := range identities {
		if strings.HasPrefix(id, "/") {
			id = s.trustDomain.ID().String() + id
		}
		out[i] = id
	}
	return out
}

// object is what is stored under a key, nil if nothing.
func (s state) object(key objectKey) *pb.Object {
	encoded, ok := s.objects.Get(key)
	object := &pb.Object{}
	if !ok || proto.Unmarshal([]byte(encoded), object) != nil { // what was put could be read
		return nil
	}
	return object
}

// answersFor says whether an identity is one of the service's.
func (s *snapshot) answersFor(id spiffe.ID, service string) bool {
	found, ok := s.policy.Service(service)
	if !ok {
		return false
	}
	ids, err := found.IDs(s.trustDomain)
	return err == nil && slices.Contains(ids, id)
}

// banned says whether a node may not be served.
func (s *snapshot) banned(name string) bool { return s.members[name].node.Banned }

// sorted is every object in the order of kinds and names.
func (s *snapshot) sorted() []objectKey {
	keys := slices.Collect(s.objects.Keys())
	slices.SortFunc(keys, compareKeys)
	return keys
}

// member refuses a node that is not known or is banned.
func (s *snapshot) member(name string) error {
	if s.banned(name) {
		return fault.Deniedf("node %s is banned", name)
	}
	if _, ok := s.members[name]; !ok {
		return fault.Hint(fault.Deniedf("node %s is not known here", name), "kith nodes add %s on the server, then kith join", name)
	}
	return nil
}
