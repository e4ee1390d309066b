package server

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
)

const (
	// ownerCLI owns what is changed without saying for whom.
	ownerCLI = "cli"
	// ownerStart owns what a trust domain starts with and what dev declared:
	// whoever applies such an object takes it over.
	ownerStart = "kith"

	devClass   = "dev"
	maxChanges = 6000 // in one transaction of the store, the bookkeeping aside
)

// plan is a change worked out against a snapshot, and not yet made.
type plan struct {
	base     *snapshot
	edits    []edit
	warnings []string
	after    *policy.Book // as it would be
}

type edit struct {
	verb   string // create | update | delete
	key    objectKey
	before *pb.Object
	after  *pb.Object
}

// planner gathers faults, so that all are told at once.
type planner struct {
	snap      *snapshot
	req       *pb.ApplyRequest
	owner     string
	dev       bool
	next      state
	lifetimes ca.Lifetimes
	put       map[objectKey]bool
	gone      map[objectKey]bool
	edits     []edit
	faults    []error
}

// bounds is what a plan must keep to besides the state itself.
type bounds struct {
	dev       bool
	wit       bool // WIT-SVIDs are issued
	lifetimes ca.Lifetimes
}

// newPlan works out what a request would change. It touches only objects of
// the request's owner, and returns every fault at once.
func newPlan(snap *snapshot, req *pb.ApplyRequest, by bounds) (plan, error) {
	p := &planner{
		snap: snap, req: req, owner: req.GetOwner(), dev: by.dev, lifetimes: by.lifetimes,
		next: snap.clone(),
		put:  make(map[objectKey]bool), gone: make(map[objectKey]bool),
	}
	if p.owner == "" {
		p.owner = ownerCLI
	}
	if p.owner == ownerStart {
		p.fault(fault.Invalidf("owner: %q is reserved", ownerStart))
	}
	for _, object := range req.GetPut() {
		p.place(object)
	}
	for _, name := range req.GetDeclare() {
		p.declare(name)
	}
	for _, key := range req.GetDelete() {
		p.drop(objectKey{registry.Kind(key.GetKind()), key.GetName()})
	}
	if req.GetPrune() {
		p.prune()
	}
	p.references()
	if len(p.faults) > 0 {
		return plan{}, joined(p.faults)
	}
	if len(p.edits) == 0 {
		return plan{base: snap}, nil
	}
	warnings, err := p.judge()
	if err != nil {
		return plan{}, err
	}
	if len(p.edits) > maxChanges {
		return plan{}, fault.Hint(fault.Invalidf("%d changes at once, at most %d", len(p.edits), maxChanges), "apply the files one after the other, services first")
	}
	if !by.wit {
		warnings = append(p.unprovable(), warnings...)
	}
	warnings = append(p.unused(), append(p.widened(), warnings...)...)
	return plan{base: snap, edits: p.edits, warnings: warnings, after: p.next.policy}, nil
}

// judge validates the state as it would be. Of its warnings it returns those
// that the change brings: what was known before is not told again.
func (p *planner) judge() ([]string, error) {
	if names, only := p.rulesOnly(); only {
		brought, err := p.next.policy.Check(p.snap.policy, names...)
		return brought, fault.Wrap(fault.Invalid, err)
	}
	rules := slices.ContainsFunc(p.edits, func(e edit) bool {
		return e.key.kind == registry.KindNode || e.key.kind == registry.KindIdentity
	})
	warnings, err := p.next.validate(rules, p.snap.policy)
	if err != nil || len(warnings) == 0 {
		return nil, err
	}
	before, err := p.snap.validate(rules, p.snap.policy)
	if err != nil {
		return warnings, nil // the change mends what was wrong
	}
	return slices.DeleteFunc(warnings, func(w string) bool { return slices.Contains(before, w) }), nil
}

// rulesOnly are the names of the rules that the change is about; only is false if
// it is about more. To look at a hundred thousand others costs a second.
func (p *planner) rulesOnly() (names []string, only bool) {
	for _, e := range p.edits {
		if e.key.kind != registry.KindRule {
			return nil, false
		}
		names = append(names, e.key.name)
	}
	return names, true
}

// joined is several faults as one error, of their kind if they agree.
func joined(faults []error) error {
	if len(faults) == 1 {
		return faults[0]
	}
	kind := fault.KindOf(faults[0])
	for _, err := range faults[1:] {
		if fault.KindOf(err) != kind {
			kind = fault.Invalid
		}
	}
	return fault.Wrap(kind, errors.Join(faults...))
}

func (p *planner) fault(err error) { p.faults = append(p.faults, err) }

// place creates or updates an object.
func (p *planner) place(object *pb.Object) {
	key, owner, err := keyOf(object)
	if err != nil {
		p.fault(err)
		return
	}
	if err := registry.ValidateKey(registry.ObjectKey(key.kind, key.name)); err != nil || key.name == "" {
		p.fault(fault.Invalidf("%s: not a name", key))
		return
	}
	if p.put[key] {
		p.fault(fault.Invalidf("%s stands twice in this change", key))
		return
	}
	p.put[key] = true
	if owner != "" && owner != p.owner {
		p.fault(fault.Invalidf("%s says owner %s, the change is of owner %s", key, owner, p.owner))
		return
	}
	object = proto.CloneOf(object)
	setOwner(object, p.owner)
	before := p.snap.object(key)
	if before != nil && !p.mayTouch(key, before) {
		return
	}
	if before != nil && p.req.GetCreateOnly() {
		p.fault(fault.Hint(fault.Conflictf("%s exists", key), "kith rules edit %s, or another name", key.name))
		return
	}
	if proto.Equal(before, object) {
		return
	}
	if err := p.hold(key, object); err != nil {
		p.fault(err)
		return
	}
	if err := p.lifetimes.CheckTTL(p.next.rules.IdentityRules[key.name].TTL); key.kind == registry.KindIdentity && err != nil {
		p.fault(fault.Hint(fault.Invalidf("identities.%s.ttl: %w", key.name, err), "%s", fault.HintOf(err)))
	}
	verb := "update"
	if before == nil {
		verb = "create"
	}
	p.edits = append(p.edits, edit{verb: verb, key: key, before: before, after: object})
}

// hold puts an object into what results.
func (p *planner) hold(key objectKey, object *pb.Object) error {
	encoded, err := proto.Marshal(object)
	if err != nil {
		return fmt.Errorf("marshal %s: %w", key, err)
	}
	return p.next.put(key, object, encoded)
}

// mayTouch refuses an object of another owner.
func (p *planner) mayTouch(key objectKey, object *pb.Object) bool {
	_, owner, err := keyOf(object)
	if err == nil && (owner == p.owner || owner == ownerStart || owner == "") {
		return true
	}
	p.fault(fault.Hint(fault.Conflictf("%s belongs to owner %s, the change is of owner %s", key, owner, p.owner),
		"change it where %s keeps it, or apply with owner: %s", owner, owner))
	return false
}

// declare makes a service on its first use, in dev. Elsewhere an unknown name
// is a fault that says which one is nearest.
func (p *planner) declare(name string) {
	key := objectKey{registry.KindService, name}
	if p.next.objects.Has(key) {
		return
	}
	if !p.dev {
		err := fault.NotFoundf("unknown service %q", name)
		if near := fault.Nearest(name, p.next.policy.ServiceNames()); near != "" {
			p.fault(fault.Hint(err, "did you mean %s?", near))
			return
		}
		p.fault(fault.Hint(err, "kith services add %s, or kith apply -f with it under services:", name))
		return
	}
	object := &pb.Object{Kind: &pb.Object_Service{Service: &pb.Service{
		Name: name, Identities: []string{"/" + devClass + "/" + name}, Protocol: "http", Owner: ownerStart,
	}}}
	if err := p.hold(key, object); err != nil {
		p.fault(err)
		return
	}
	p.edits = append(p.edits, edit{verb: "create", key: key, after: object})
}

// drop deletes an object.
func (p *planner) drop(key objectKey) {
	before := p.snap.object(key)
	switch {
	case !slices.Contains(registry.Kinds(), key.kind):
		p.fault(fault.Invalidf("unknown kind %q: one of %v", key.kind, registry.Kinds()))
	case p.put[key]:
		p.fault(fault.Invalidf("%s is both changed and deleted", key))
	case p.gone[key]:
		p.fault(fault.Invalidf("%s is deleted twice", key))
	case before == nil:
		p.fault(p.missing(key))
	case p.mayTouch(key, before):
		p.remove(key, before)
	}
}

func (p *planner) missing(key objectKey) error {
	err := fault.NotFoundf("there is no %s", key)
	var names []string
	for k := range p.snap.objects.Keys() {
		if k.kind == key.kind {
			names = append(names, k.name)
		}
	}
	if near := fault.Nearest(key.name, names); near != "" {
		return fault.Hint(err, "did you mean %s?", near)
	}
	return err
}

func (p *planner) remove(key objectKey, before *pb.Object) {
	p.gone[key] = true
	p.next.remove(key)
	p.edits = append(p.edits, edit{verb: "delete", key: key, before: before})
}

// prune deletes the owner's objects that the change does not name.
func (p *planner) prune() {
	for _, key := range p.snap.sorted() {
		if p.put[key] || p.gone[key] {
			continue
		}
		object := p.snap.object(key)
		if _, owner, err := keyOf(object); err == nil && owner == p.owner {
			p.remove(key, object)
		}
	}
}

// references refuses to delete what others name, saying who does.
func (p *planner) references() {
	for key := range p.gone {
		switch key.kind {
		case registry.KindService:
			for _, name := range p.next.policy.RuleNames() {
				r, _ := p.next.policy.Rule(name)
				if r.To == key.name || slices.Contains(r.From, key.name) || slices.Contains(r.Except, key.name) {
					p.fault(fault.Hint(fault.Conflictf("%s is named by rule %s", key, name), "kith rules rm %s", name))
				}
			}
			for _, name := range slices.Sorted(maps.Keys(p.next.providers)) {
				if slices.Contains(p.next.providers[name].Services, key.name) {
					p.fault(fault.Hint(fault.Conflictf("%s is named by provider %s", key, name), "kith ids providers show %s", name))
				}
			}
		case registry.KindTeam:
			p.teamless(key)
		case registry.KindNode:
			for _, name := range slices.Sorted(maps.Keys(p.next.rules.IdentityRules)) {
				if slices.Contains(p.next.rules.IdentityRules[name].Nodes, key.name) {
					p.fault(fault.Conflictf("%s is named by identity rule %s", key, name))
				}
			}
			if n := p.snap.classSize(key.name); n > 0 {
				p.fault(fault.Hint(fault.Conflictf("%s is the class of %d nodes", key, n), "kith nodes list"))
			}
		}
	}
}

// maxDiffs is how many edits are shown line by line once they are made. Before,
// in a dry run, all are.
const maxDiffs = 200

// changes renders the edits for people, in the order of kinds and names.
func (p plan) changes(dryRun bool) ([]*pb.Change, error) {
	edits := slices.Clone(p.edits)
	slices.SortStableFunc(edits, func(a, b edit) int { return compareKeys(a.key, b.key) })
	out := make([]*pb.Change, 0, len(edits))
	for _, e := range edits {
		change := &pb.Change{Verb: e.verb, Key: e.key.pb()}
		if dryRun || len(edits) <= maxDiffs {
			var err error
			if change.Diff, err = config.Diff(e.before, e.after); err != nil {
				return nil, err
			}
		}
		out = append(out, change)
	}
	return out, nil
}

// summary names the edits in one line for the audit log.
func (p plan) summary() string {
	var b strings.Builder
	for i, e := range p.edits {
		if i == 16 {
			b.WriteString(", …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(e.verb + " " + e.key.String())
	}
	return b.String()
}
