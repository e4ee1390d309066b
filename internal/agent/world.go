package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/workload"
	"github.com/kith-id/kith/spiffe"
)

// world is everything the server has told this agent, at one revision. It is
// immutable: a change makes a new one.
type world struct {
	revision, epoch uint64
	domain          spiffe.TrustDomain
	node, class     string
	scope           registry.Attributes // node.*, as the server sees this node
	dev             bool

	objects map[objectKey]*pb.Object
	bundles spiffe.BundleMap
	jwks    []*pb.Bundle // the bundles as they came

	policy     policy.Set
	byID       map[spiffe.ID][]string // services by identity, sorted
	unreadable []*pb.Object           // services and rules of a newer schema
	identities *registry.Identities
	measured   map[string]bool // costly attributes that some rule names
	faults     []string        // what could not be read, for the ack
}

type objectKey struct {
	kind registry.Kind
	name string
}

func keyOf(o *pb.Object) objectKey {
	switch k := o.GetKind().(type) {
	case *pb.Object_NodeRule:
		return objectKey{registry.KindNode, k.NodeRule.GetName()}
	case *pb.Object_IdentityRule:
		return objectKey{registry.KindIdentity, k.IdentityRule.GetName()}
	case *pb.Object_Service:
		return objectKey{registry.KindService, k.Service.GetName()}
	case *pb.Object_Rule:
		return objectKey{registry.KindRule, k.Rule.GetName()}
	}
	return objectKey{}
}

// newWorld reads a whole state.
func newWorld(in *pb.State) (*world, error) {
	td, err := spiffe.ParseTrustDomain(in.GetTrustDomain())
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	w := &world{
		revision: in.GetRevision(), epoch: in.GetEpoch(), domain: td,
		node: in.GetNode(), class: in.GetClass(), scope: in.GetNodeAttributes(), dev: in.GetDev(),
		objects: make(map[objectKey]*pb.Object, len(in.GetObjects())),
	}
	for _, o := range in.GetObjects() {
		w.objects[keyOf(o)] = o
	}
	if err := w.readBundles(in.GetBundles()); err != nil {
		return nil, err
	}
	w.readPolicy()
	w.readIdentities(nil)
	return w, nil
}

// apply makes the world one revision later.
func (w *world) apply(d *pb.Delta) (*world, error) {
	if d.GetRevision() != w.revision+1 {
		return nil, fault.Conflictf("delta to revision %d on top of %d", d.GetRevision(), w.revision)
	}
	next := *w
	next.revision = d.GetRevision()
	next.objects = maps.Clone(w.objects)
	touched := make(map[registry.Kind]bool)
	for _, k := range d.GetDelete() {
		touched[registry.Kind(k.GetKind())] = true
		delete(next.objects, objectKey{registry.Kind(k.GetKind()), k.GetName()})
	}
	for _, o := range d.GetPut() {
		k := keyOf(o)
		touched[k.kind] = true
		next.objects[k] = o
	}
	if len(d.GetBundles()) > 0 {
		if err := next.readBundles(d.GetBundles()); err != nil {
			return nil, err
		}
	}
	next.faults = nil
	next.readPolicy()
	if touched[registry.KindIdentity] || touched[registry.KindNode] || len(w.faults) > 0 {
		next.readIdentities(w)
	}
	return &next, nil
}

// readBundles refuses a set without the own trust domain: never is a bundle
// replaced by nothing.
func (w *world) readBundles(in []*pb.Bundle) error {
	bundles := make(spiffe.BundleMap, len(in))
	for _, b := range in {
		td, err := spiffe.ParseTrustDomain(b.GetTrustDomain())
		if err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
		if bundles[td], err = spiffe.ParseBundle(td, b.GetJwks()); err != nil {
			return fault.Wrap(fault.Invalid, err)
		}
	}
	if own, ok := bundles[w.domain]; !ok || len(own.Roots()) == 0 {
		return fault.Invalidf("state without a bundle of %s", w.domain)
	}
	w.bundles, w.jwks = bundles, in
	return nil
}

// readPolicy reads services and rules. What this version cannot read goes to
// every enforcement point as it is: they refuse it and fail closed.
func (w *world) readPolicy() {
	set := policy.Set{
		TrustDomain: w.domain, Revision: w.revision,
		Services: make(map[string]policy.Service), Rules: make(map[string]policy.Rule),
	}
	w.unreadable = nil
	unread := func(k objectKey, o *pb.Object, err error) {
		w.unreadable = append(w.unreadable, o)
		w.faults = append(w.faults, fmt.Sprintf("%s %s: %v", k.kind, k.name, err))
	}
	for k, o := range w.objects {
		var err error
		switch k.kind {
		case registry.KindService:
			var s policy.Service
			if s, err = policy.ServiceFromPB(o.GetService()); err == nil {
				set.Services[k.name] = s
			}
		case registry.KindRule:
			var r policy.Rule
			if r, err = policy.RuleFromPB(o.GetRule()); err == nil {
				set.Rules[k.name] = r
			}
		}
		if err != nil {
			unread(k, o, err)
		}
	}
	w.policy = set
	w.byID = make(map[spiffe.ID][]string)
	for name, s := range set.Services {
		ids, err := s.IDs(w.domain)
		if err != nil {
			unread(objectKey{registry.KindService, name}, w.objects[objectKey{registry.KindService, name}], err)
			continue
		}
		for _, id := range ids {
			w.byID[id] = append(w.byID[id], name)
		}
	}
	for _, names := range w.byID {
		slices.Sort(names)
	}
}

// readIdentities compiles the identity rules. Rules that do not compile here
// leave the former ones in force and are told to the server, which evaluates
// for itself before it signs.
func (w *world) readIdentities(former *world) {
	var rules []registry.IdentityRule
	classes := []string{w.class}
	w.measured = make(map[string]bool)
	var failed error
	for k, o := range w.objects {
		switch k.kind {
		case registry.KindNode:
			classes = append(classes, k.name)
		case registry.KindIdentity:
			rule, err := registry.IdentityRuleFromPB(o.GetIdentityRule())
			if err != nil {
				failed = err
				continue
			}
			rules = append(rules, rule)
			for _, name := range []string{"workload.unix.sha256", "workload.unix.pid"} {
				if strings.Contains(rule.ID+rule.Require, name) {
					w.measured[name] = true
				}
			}
		}
	}
	slices.Sort(classes)
	compiled, _, err := registry.CompileIdentities(w.domain, rules, slices.Compact(classes))
	if failed == nil {
		failed = err
	}
	switch {
	case failed == nil:
		w.identities = compiled
	case former != nil && former.identities != nil:
		w.identities, w.measured = former.identities, former.measured
		w.faults = append(w.faults, fmt.Sprintf("identity rules: %v", failed))
	default:
		w.identities = nil
		w.faults = append(w.faults, fmt.Sprintf("identity rules: %v", failed))
	}
}

// evaluate runs the identity rules on what is known of a workload.
func (w *world) evaluate(attrs registry.Attributes) workload.Evaluation {
	ev := workload.Evaluation{Attributes: attrs.Workload()}
	if w.identities != nil {
		ev.Matches, ev.Outcomes = w.identities.Evaluate(w.class, registry.Combine(w.scope, attrs))
	}
	return ev
}

// state is the world as a message, for the cache.
func (w *world) state() *pb.State {
	out := &pb.State{
		Revision: w.revision, Epoch: w.epoch, TrustDomain: w.domain.String(),
		Node: w.node, Class: w.class, NodeAttributes: w.scope, Dev: w.dev, Bundles: w.jwks,
	}
	for _, o := range w.objects {
		out.Objects = append(out.Objects, o)
	}
	return out
}

// servicesOf is the names of the services that the IDs belong to, sorted.
func (w *world) servicesOf(ids []spiffe.ID) []string {
	var names []string
	for _, id := range ids {
		names = append(names, w.byID[id]...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// slice is the policy of the named services, at revision 0.
func (w *world) slice(names []string) *pb.Slice {
	out := &pb.Slice{
		Schema: policy.Schema, TrustDomain: w.domain.String(),
		Node: w.node, Dev: w.dev, Named: make(map[string]*pb.Service),
	}
	set := w.policy.Slice(names...)
	for name, s := range set.Services {
		if _, own := slices.BinarySearch(names, name); !own {
			out.Named[name] = s.PB()
		}
	}
	for _, name := range names {
		if s, ok := set.Services[name]; ok {
			out.Services = append(out.Services, s.PB())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set.Rules)) {
		out.Rules = append(out.Rules, set.Rules[name].PB())
	}
	for _, o := range w.unreadable {
		if r := o.GetRule(); r != nil {
			out.Rules = append(out.Rules, r)
		} else if s := o.GetService(); s != nil {
			out.Named[s.GetName()] = s
		}
	}
	return out
}

// sameSlice compares what an enforcement point would enforce; the revision
// alone is no difference.
func sameSlice(a, b *pb.Slice) bool { return a == b || proto.Equal(a, b) }
