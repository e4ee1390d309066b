package server

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/fork"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// state is applied state: the objects as they are stored and sent, and what
// registry and policy read in them. The three always say the same.
type state struct {
	objects *fork.Map[objectKey, string] // encoded: read, a service takes four times the room
	rules   registry.Set
	policy  *policy.Book

	federations map[string]registry.Federation // by trust domain
	providers   map[string]usertoken.Provider
}

func newState(td spiffe.TrustDomain) state {
	return state{
		objects: new(fork.Map[objectKey, string]),
		rules: registry.Set{
			TrustDomain:   td,
			NodeRules:     map[string]registry.NodeRule{},
			IdentityRules: map[string]registry.IdentityRule{},
		},
		policy:      policy.NewBook(td),
		federations: map[string]registry.Federation{},
		providers:   map[string]usertoken.Provider{},
	}
}

// clone is a copy to change; the objects themselves are shared and immutable.
func (s state) clone() state {
	s.objects = s.objects.Fork()
	s.rules.NodeRules = maps.Clone(s.rules.NodeRules)
	s.rules.IdentityRules = maps.Clone(s.rules.IdentityRules)
	s.policy = s.policy.Fork()
	s.federations = maps.Clone(s.federations)
	s.providers = maps.Clone(s.providers)
	return s
}

// put places an object, which is encoded as well, or refuses one that cannot be read.
func (s state) put(key objectKey, object *pb.Object, encoded []byte) error {
	var err error
	switch kind := object.GetKind().(type) {
	case *pb.Object_NodeRule:
		s.rules.NodeRules[key.name] = registry.NodeRuleFromPB(kind.NodeRule)
	case *pb.Object_IdentityRule:
		s.rules.IdentityRules[key.name], err = registry.IdentityRuleFromPB(kind.IdentityRule)
	case *pb.Object_Provider:
		s.providers[key.name], err = usertoken.FromPB(kind.Provider)
	case *pb.Object_Team:
		var team policy.Team
		if team, err = policy.TeamFromPB(kind.Team); err == nil {
			s.policy.PutTeam(team)
		}
	case *pb.Object_Service:
		var service policy.Service
		if service, err = policy.ServiceFromPB(kind.Service); err == nil {
			s.policy.PutService(service)
		}
	case *pb.Object_Rule:
		var rule policy.Rule
		if rule, err = policy.RuleFromPB(kind.Rule); err == nil {
			s.policy.PutRule(rule)
		}
	case *pb.Object_Federation:
		s.federations[key.name], err = registry.FederationFromPB(kind.Federation, s.policy.TrustDomain())
	default:
		err = fault.Invalidf("%s: object of a kind this version does not know", key)
	}
	s.objects.Put(key, string(encoded))
	return err
}

func (s state) remove(key objectKey) {
	s.objects.Delete(key)
	switch key.kind {
	case registry.KindNode:
		delete(s.rules.NodeRules, key.name)
	case registry.KindIdentity:
		delete(s.rules.IdentityRules, key.name)
	case registry.KindProvider:
		delete(s.providers, key.name)
	case registry.KindTeam:
		s.policy.RemoveTeam(key.name)
	case registry.KindService:
		s.policy.RemoveService(key.name)
	case registry.KindRule:
		s.policy.RemoveRule(key.name)
	case registry.KindFederation:
		delete(s.federations, key.name)
	}
}

// validate returns every fault of the state at once, and what an operator
// should know of a state without faults. The rules of nodes and identities are
// looked at only when asked for: to compile them costs milliseconds. Services that
// are the same in before, the policy that this one came of, are not looked at again.
func (s state) validate(rules bool, before *policy.Book) (warnings []string, err error) {
	var rulesErr error
	if rules {
		var found []registry.Warning
		found, rulesErr = s.rules.Validate()
		for _, w := range found {
			warnings = append(warnings, w.String())
		}
	}
	fromPolicy, policyErr := s.policy.ValidateAfter(before)
	fromProviders, providersErr := s.validateProviders()
	if err := errors.Join(rulesErr, providersErr, policyErr, registry.CheckFederations(s.federations, s.policy.TrustDomain())); err != nil {
		return nil, fault.Wrap(fault.Invalid, err)
	}
	return slices.Concat(warnings, fromProviders, fromPolicy), nil
}

// validateProviders checks the providers, and that the services they name exist.
func (s state) validateProviders() (warnings []string, err error) {
	faults := []error{usertoken.Validate(s.providers)}
	for _, name := range slices.Sorted(maps.Keys(s.providers)) {
		p := s.providers[name]
		warnings = append(warnings, p.Warnings()...)
		for _, service := range p.Services {
			if _, known := s.policy.Service(service); known {
				continue
			}
			err := fault.Invalidf("providers.%s.services: unknown service %q", name, service)
			if near := fault.Nearest(service, s.policy.ServiceNames()); near != "" {
				err = fault.Hint(err, "did you mean %s?", near)
			}
			faults = append(faults, err)
		}
	}
	return warnings, errors.Join(faults...)
}

// objectKey names an object of applied state.
type objectKey struct {
	kind registry.Kind
	name string
}

func (k objectKey) String() string { return string(k.kind) + " " + k.name }

func (k objectKey) pb() *pb.Key { return &pb.Key{Kind: string(k.kind), Name: k.name} }

func compareKeys(a, b objectKey) int {
	if a.kind != b.kind {
		return slices.Index(registry.Kinds(), a.kind) - slices.Index(registry.Kinds(), b.kind)
	}
	return strings.Compare(a.name, b.name)
}

// keyOf is an object's kind and name, and its owner.
func keyOf(o *pb.Object) (objectKey, string, error) {
	switch kind := o.GetKind().(type) {
	case *pb.Object_NodeRule:
		return objectKey{registry.KindNode, kind.NodeRule.GetName()}, kind.NodeRule.GetOwner(), nil
	case *pb.Object_IdentityRule:
		return objectKey{registry.KindIdentity, kind.IdentityRule.GetName()}, kind.IdentityRule.GetOwner(), nil
	case *pb.Object_Provider:
		return objectKey{registry.KindProvider, kind.Provider.GetName()}, kind.Provider.GetOwner(), nil
	case *pb.Object_Team:
		return objectKey{registry.KindTeam, kind.Team.GetName()}, kind.Team.GetOwner(), nil
	case *pb.Object_Service:
		return objectKey{registry.KindService, kind.Service.GetName()}, kind.Service.GetOwner(), nil
	case *pb.Object_Rule:
		return objectKey{registry.KindRule, kind.Rule.GetName()}, kind.Rule.GetOwner(), nil
	case *pb.Object_Federation:
		return objectKey{registry.KindFederation, kind.Federation.GetTrustDomain()}, kind.Federation.GetOwner(), nil
	default:
		return objectKey{}, "", fault.Invalidf("object of a kind this version does not know")
	}
}

func setOwner(o *pb.Object, owner string) {
	switch kind := o.GetKind().(type) {
	case *pb.Object_NodeRule:
		kind.NodeRule.Owner = owner
	case *pb.Object_IdentityRule:
		kind.IdentityRule.Owner = owner
	case *pb.Object_Provider:
		kind.Provider.Owner = owner
	case *pb.Object_Team:
		kind.Team.Owner = owner
	case *pb.Object_Service:
		kind.Service.Owner = owner
	case *pb.Object_Rule:
		kind.Rule.Owner = owner
	case *pb.Object_Federation:
		kind.Federation.Owner = owner
	}
}
