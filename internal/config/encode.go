package config

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

// EncodeObject writes one object as a state file that ParseState reads back to
// the same object.
func EncodeObject(o *pb.Object) ([]byte, error) { return EncodeState(State{Objects: []*pb.Object{o}}) }

// EncodeState writes state as YAML that ParseState reads back to the same
// objects. The output depends on the objects alone: each kind sorted by name,
// one document an owner.
func EncodeState(s State) ([]byte, error) {
	byOwner := map[string]*stateFile{}
	if len(s.Objects) == 0 {
		byOwner[""] = &stateFile{TrustDomain: domain{s.TrustDomain}}
	}
	for _, o := range s.Objects {
		owner := ownerOf(o)
		f := byOwner[owner]
		if f == nil {
			f = &stateFile{TrustDomain: domain{s.TrustDomain}, Owner: owner, Services: map[string]serviceBody{}}
			byOwner[owner] = f
		}
		if err := f.put(o); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	for _, owner := range sortedKeys(byOwner) {
		f := byOwner[owner]
		slices.SortStableFunc(f.Nodes, func(a, b nodeRule) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortStableFunc(f.Identities, func(a, b identityRule) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortStableFunc(f.Providers, func(a, b provider) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortStableFunc(f.Teams, func(a, b team) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortStableFunc(f.Rules, func(a, b rule) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortStableFunc(f.Federation, func(a, b federation) int { return cmp.Compare(a.TrustDomain, b.TrustDomain) })
		if err := enc.Encode(nodeOf(reflect.ValueOf(*f), "")); err != nil {
			return nil, fmt.Errorf("encode state of owner %q: %w", owner, err)
		}
	}
	if err := enc.Close(); err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return out.Bytes(), nil
}

// put adds an object to the document.
func (f *stateFile) put(o *pb.Object) error {
	switch k := o.GetKind().(type) {
	case *pb.Object_NodeRule:
		f.Nodes = append(f.Nodes, nodeRule{Name: k.NodeRule.GetName(), Require: k.NodeRule.GetRequire()})
	case *pb.Object_IdentityRule:
		r := k.IdentityRule
		f.Identities = append(f.Identities, identityRule{
			Name: r.GetName(), Nodes: r.GetNodes(), ID: r.GetId(), Require: r.GetRequire(),
			Default: r.GetDefault(), Hint: r.GetHint(), TTL: Duration(r.GetTtl().AsDuration()),
		})
	case *pb.Object_Provider:
		f.Providers = append(f.Providers, providerOf(k.Provider))
	case *pb.Object_Team:
		f.Teams = append(f.Teams, teamOf(k.Team))
	case *pb.Object_Service:
		s := k.Service
		b := serviceBody{
			Identities: s.GetIdentities(), Protocol: protocol(s.GetProtocol()),
			RunAs: s.GetRunAs(), Endpoints: s.GetEndpoints(), Mode: serviceMode(s.GetMode()), Team: s.GetTeam(),
		}
		for _, e := range s.GetExternal() {
			b.External = append(b.External, externalOf(e))
		}
		if p := s.GetProof(); p != nil {
			b.Proof = &proof{Audience: p.GetAudience(), Accept: proofKind(p.GetAccept()), Via: p.GetVia(), CA: p.GetCa()}
		}
		if f := s.GetForwarded(); len(f.GetBy()) > 0 || f.GetHops() != 0 {
			b.Forwarded = &forwarded{By: f.GetBy(), Hops: count(f.GetHops())}
		}
		if p := s.GetPaths(); p.GetKeepEncodedSlash() || p.GetKeepDoubleSlash() {
			b.Paths = &pathOptions{EncodedSlash: keep(p.GetKeepEncodedSlash()), DoubleSlash: keep(p.GetKeepDoubleSlash())}
		}
		f.Services[s.GetName()] = b
	case *pb.Object_Rule:
		r := k.Rule
		f.Rules = append(f.Rules, rule{
			Name: r.GetName(), From: r.GetFrom(), To: r.GetTo(), Allow: r.GetAllow(),
			Deny: r.GetDeny(), Except: r.GetExcept(), Guardrail: r.GetGuardrail(),
			Boundary: r.GetBoundary(), When: r.GetWhen(), Mode: ruleMode(r.GetMode()),
		})
	case *pb.Object_Federation:
		f.Federation = append(f.Federation, federationOf(k.Federation))
	default:
		return fault.Invalidf("object of no kind this version knows")
	}
	return nil
}

// ownerOf is the owner of an object of any kind.
func ownerOf(o *pb.Object) string {
	switch k := o.GetKind().(type) {
	case *pb.Object_NodeRule:
		return k.NodeRule.GetOwner()
	case *pb.Object_IdentityRule:
		return k.IdentityRule.GetOwner()
	case *pb.Object_Provider:
		return k.Provider.GetOwner()
	case *pb.Object_Team:
		return k.Team.GetOwner()
	case *pb.Object_Service:
		return k.Service.GetOwner()
	case *pb.Object_Rule:
		return k.Rule.GetOwner()
	case *pb.Object_Federation:
		return k.Federation.GetOwner()
	default:
		return ""
	}
}
