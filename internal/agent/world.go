package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/fork"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/internal/workload"
	"github.com/kith-id/kith/spiffe"
)

// world is everything the server has told this agent, at one revision. It is
// immutable: a change makes a new one.
type world struct {
	revision, epoch uint64
	mark            uint64 // of the revision: tells two histories apart
	domain          spiffe.TrustDomain
	node, class     string
	scope           registry.Attributes // node.*, as the server sees this node
	dev             bool

	objects *fork.Map[objectKey, *pb.Object]
	bundles spiffe.BundleMap
	jwks    []*pb.Bundle // the bundles as they came

	policy     *policy.Book
	providers  map[string]usertoken.Provider
	byID       map[spiffe.ID][]string // services by identity, sorted
	unread     map[objectKey]error    // services and rules that this version cannot read
	identities *registry.Identities
	measured   map[string]bool // costly attributes that some rule names
	idFault    error           // why the identity rules of now are not in force
	rulesOnly  bool            // differs from the former in policy rules and providers alone
	touched    map[string]bool // services whose slice may differ from the former world's; nil: all

	evaluations *workload.Evaluations // by identities, class and scope
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
	case *pb.Object_Provider:
		return objectKey{registry.KindProvider, k.Provider.GetName()}
	case *pb.Object_Service:
		return objectKey{registry.KindService, k.Service.GetName()}
	case *pb.Object_Rule:
		return objectKey{registry.KindRule, k.Rule.GetName()}
	case *pb.Object_Team:
		return objectKey{registry.KindTeam, k.Team.GetName()}
	case *pb.Object_Federation:
		return objectKey{registry.KindFederation, k.Federation.GetTrustDomain()}
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
		revision: in.GetRevision(), epoch: in.GetEpoch(), mark: in.GetMark(), domain: td,
		node: in.GetNode(), class: in.GetClass(), scope: in.GetNodeAttributes(), dev: in.GetDev(),
		objects: new(fork.Map[objectKey, *pb.Object]),
	}
	for _, o := range in.GetObjects() {
		w.objects.Put(keyOf(o), o)
	}
	if err := w.readBundles(in.GetBundles()); err != nil {
		return nil, err
	}
	w.policy = policy.NewBook(td)
	w.providers = make(map[string]usertoken.Provider)
	w.unread = make(map[objectKey]error)
	for k := range w.objects.Keys() {
		w.readPolicy(k)
	}
	w.indexServices()
	w.readIdentities(nil)
	return w, nil
}

// apply makes the world that a delta leads to. It reads only what has changed. A
// delta of several changes may begin before this world: it says how things stand
// in the end.
func (w *world) apply(d *pb.Delta) (*world, error) {
	from := d.GetFrom()
	if from == 0 {
		from = d.GetRevision() - 1
	}
	if from > w.revision || d.GetRevision() <= w.revision {
		return nil, fault.Conflictf("delta from revision %d to %d on top of %d", from, d.GetRevision(), w.revision)
	}
	next := *w
	next.revision, next.mark = d.GetRevision(), d.GetMark()
	next.objects, next.unread, next.providers = w.objects.Fork(), maps.Clone(w.unread), maps.Clone(w.providers)
	next.policy = w.policy.Fork()
	next.touched = w.touches(d)
	touched := make(map[registry.Kind]bool)
	for _, k := range d.GetDelete() {
		key := objectKey{registry.Kind(k.GetKind()), k.GetName()}
		touched[key.kind] = true
		next.objects.Delete(key)
		next.readPolicy(key)
	}
	for _, o := range d.GetPut() {
		key := keyOf(o)
		touched[key.kind] = true
		next.objects.Put(key, o)
		next.readPolicy(key)
	}
	if len(d.GetBundles()) > 0 {
		if err := next.readBundles(d.GetBundles()); err != nil {
			return nil, err
		}
	}
	if touched[registry.KindService] {
		next.indexServices()
		next.evaluations = &workload.Evaluations{} // what a name that is claimed gives
	}
	if touched[registry.KindIdentity] || touched[registry.KindNode] {
		next.readIdentities(w)
	}
	delete(touched, registry.KindRule)
	delete(touched, registry.KindProvider)
	delete(touched, registry.KindTeam)
	next.rulesOnly = len(touched) == 0 && len(d.GetBundles()) == 0
	if len(w.unread)+len(next.unread) > 0 {
		next.touched = nil // what cannot be read is in every slice
	}
	return &next, nil
}

// touches are the services whose slices a delta may change: those that its rules
// are to, before and after; nil where it may be any.
func (w *world) touches(d *pb.Delta) map[string]bool {
	out := make(map[string]bool)
	rule := func(r policy.Rule) bool {
		out[r.To] = true
		return r.ToOne()
	}
	former := func(k objectKey) bool {
		switch k.kind {
		case registry.KindRule:
			r, there := w.policy.Rule(k.name)
			return !there || rule(r)
		case registry.KindService, registry.KindProvider:
			return false
		default:
			return true
		}
	}
	for _, k := range d.GetDelete() {
		if !former(objectKey{registry.Kind(k.GetKind()), k.GetName()}) {
			return nil
		}
	}
	for _, o := range d.GetPut() {
		if !former(keyOf(o)) || o.GetRule() != nil && !rule(policy.Rule{To: o.GetRule().GetTo()}) {
			return nil
		}
	}
	return out
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

// readPolicy brings a service, rule or provider up to date with its object. What this
// version cannot read goes to every enforcement point as it is: they refuse it
// and fail closed.
func (w *world) readPolicy(k objectKey) {
	o, there := w.objects.Get(k)
	var err error
	switch k.kind {
	case registry.KindService:
		w.policy.RemoveService(k.name)
		if there {
			var s policy.Service
			if s, err = policy.ServiceFromPB(o.GetService()); err == nil {
				_, err = s.IDs(w.domain)
			}
			if err == nil {
				w.policy.PutService(s)
			}
		}
	case registry.KindRule:
		w.policy.RemoveRule(k.name)
		if there {
			var r policy.Rule
			if r, err = policy.RuleFromPB(o.GetRule()); err == nil {
				w.policy.PutRule(r)
			}
		}
	case registry.KindProvider:
		delete(w.providers, k.name)
		if there {
			var p usertoken.Provider
			if p, err = usertoken.FromPB(o.GetProvider()); err == nil {
				w.providers[k.name] = p
			}
		}
	}
	delete(w.unread, k)
	if err != nil {
		w.unread[k] = err
	}
}

func (w *world) indexServices() {
	w.byID = make(map[spiffe.ID][]string)
	for name, s := range w.policy.Services() {
		ids, _ := s.IDs(w.domain) // those with a faulty one are unread
		for _, id := range ids {
			w.byID[id] = append(w.byID[id], name)
		}
	}
	for _, names := range w.byID {
		slices.Sort(names)
	}
}

// faults is what of this world is not in force here, for the ack.
func (w *world) faults() []string {
	var out []string
	for k, err := range w.unread {
		out = append(out, fmt.Sprintf("%s %s: %v", k.kind, k.name, err))
	}
	if w.idFault != nil {
		out = append(out, fmt.Sprintf("identity rules: %v", w.idFault))
	}
	slices.Sort(out)
	return out
}

// readIdentities compiles the identity rules. Rules that do not compile here
// leave the former ones in force and are told to the server, which evaluates
// for itself before it signs.
func (w *world) readIdentities(former *world) {
	var rules []registry.IdentityRule
	classes := []string{w.class}
	w.measured = make(map[string]bool)
	var failed error
	for k, o := range w.objects.All() {
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
			for _, name := range []string{attrSHA256, attrPID, attrGroups} {
				if strings.Contains(rule.ID+rule.Require, name) {
					w.measured[name] = true
				}
			}
		}
	}
	w.evaluations = &workload.Evaluations{}
	slices.Sort(classes)
	compiled, _, err := registry.CompileIdentities(w.domain, rules, slices.Compact(classes))
	if failed == nil {
		failed = err
	}
	w.identities, w.idFault = compiled, failed
	if failed != nil {
		w.identities = nil
		if former != nil {
			w.identities, w.measured = former.identities, former.measured
		}
	}
}

// evaluate runs the identity rules on what is known of a workload.
func (w *world) evaluate(attrs registry.Attributes) *workload.Evaluation {
	return w.evaluations.Of(attrs, func(attrs registry.Attributes) ([]registry.Match, []registry.Outcome) {
		if w.identities == nil {
			return nil, nil
		}
		matches, outcomes := w.identities.Evaluate(w.class, registry.Combine(w.scope, attrs))
		return w.lent(attrs[attrClaim], matches), outcomes
	})
}

// head is the world as a message but for its objects.
func (w *world) head() *pb.State {
	return &pb.State{
		Revision: w.revision, Epoch: w.epoch, Mark: w.mark, TrustDomain: w.domain.String(),
		Node: w.node, Class: w.class, NodeAttributes: w.scope, Dev: w.dev, Bundles: w.jwks,
	}
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
	unread := slices.SortedFunc(maps.Keys(w.unread), func(a, b objectKey) int { return cmp.Compare(a.name, b.name) })
	for _, k := range unread {
		o, _ := w.objects.Get(k)
		if r := o.GetRule(); r != nil {
			out.Rules = append(out.Rules, r)
		} else if s := o.GetService(); s != nil {
			out.Named[s.GetName()] = s
		} else if p := o.GetProvider(); p != nil {
			out.Providers = append(out.Providers, p)
		}
	}
	out.Providers = append(out.Providers, w.providersOf(names)...)
	return out
}

// providersOf are the providers of the named services, if some rule to them reads
// tokens: where none does nobody needs to fetch keys.
func (w *world) providersOf(names []string) []*pb.Provider {
	if len(w.providers) == 0 || !w.policy.ReadTokens(names...) {
		return nil
	}
	var out []*pb.Provider
	for _, name := range slices.Sorted(maps.Keys(w.providers)) {
		if p := w.providers[name]; slices.ContainsFunc(names, p.For) {
			out = append(out, p.PB())
		}
	}
	return out
}

// sameSlice compares what an enforcement point would enforce; the revision
// alone is no difference.
func sameSlice(a, b *pb.Slice) bool { return a == b || proto.Equal(a, b) }
