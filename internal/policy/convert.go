package policy

import (
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

// Schema is the newest policy schema this package understands.
const Schema = 1

// ServiceFromPB reads a service off the wire. An unknown protocol, or a field of
// a newer schema, is refused.
func ServiceFromPB(m *pb.Service) (Service, error) {
	if m == nil {
		return Service{}, fault.Invalidf("service is missing")
	}
	if err := understood(m, m.GetPaths(), m.GetForwarded(), m.GetProof()); err != nil {
		return Service{}, fault.Invalidf("service %q: %w", clip(m.GetName()), err)
	}
	protocol, err := ParseProtocol(m.GetProtocol())
	if err != nil {
		return Service{}, at("services."+clip(m.GetName())+".protocol", err)
	}
	mode, err := parseMode(m.GetMode(), Observe)
	if err != nil {
		return Service{}, at("services."+clip(m.GetName())+".mode", err)
	}
	if m.GetProof() != nil && m.GetProof().GetAudience() == "" { // also where nothing else is said
		return Service{}, at("services."+clip(m.GetName())+".proof.audience", noAudience())
	}
	externals, err := externalsFromPB(m.GetExternal())
	if err != nil {
		return Service{}, at("services."+clip(m.GetName()), err)
	}
	return Service{
		Name: m.GetName(), Identities: m.GetIdentities(), Protocol: protocol, RunAs: m.GetRunAs(),
		Paths: PathOptions{
			KeepEncodedSlash: m.GetPaths().GetKeepEncodedSlash(),
			KeepDoubleSlash:  m.GetPaths().GetKeepDoubleSlash(),
		},
		Endpoints: m.GetEndpoints(), Owner: m.GetOwner(), Team: m.GetTeam(), Mode: mode, Externals: externals,
		Proof:     ProofFromPB(m.GetProof()),
		Forwarded: Forwarded{By: m.GetForwarded().GetBy(), Hops: int(min(m.GetForwarded().GetHops(), math.MaxInt32))},
	}, nil
}

// PB is the service on the wire.
func (s Service) PB() *pb.Service {
	m := &pb.Service{
		Name: s.Name, Identities: s.Identities, Protocol: s.Protocol.String(), RunAs: s.RunAs,
		Endpoints: s.Endpoints, Owner: s.Owner, Team: s.Team, Mode: s.Mode.String(),
		Proof: s.Proof.PB(),
	}
	if len(s.Forwarded.By) > 0 || s.Forwarded.Hops != 0 {
		m.Forwarded = &pb.Forwarded{By: s.Forwarded.By, Hops: uint32(s.Forwarded.Hops)}
	}
	for _, e := range s.Externals {
		m.External = append(m.External, e.PB())
	}
	if s.Paths != (PathOptions{}) {
		m.Paths = &pb.PathOptions{KeepEncodedSlash: s.Paths.KeepEncodedSlash, KeepDoubleSlash: s.Paths.KeepDoubleSlash}
	}
	return m
}

// RuleFromPB reads a rule off the wire. A field of a newer schema is refused.
func RuleFromPB(m *pb.Rule) (Rule, error) {
	if m == nil {
		return Rule{}, fault.Invalidf("rule is missing")
	}
	if err := understood(m); err != nil {
		return Rule{}, fault.Invalidf("rule %q: %w", clip(m.GetName()), err)
	}
	mode, err := parseMode(m.GetMode(), Shadow)
	if err != nil {
		return Rule{}, at("rules."+clip(m.GetName())+".mode", err)
	}
	return Rule{
		Name: m.GetName(), From: m.GetFrom(), To: m.GetTo(), Allow: m.GetAllow(), Deny: m.GetDeny(),
		Except: m.GetExcept(), Guardrail: m.GetGuardrail(), Boundary: m.GetBoundary(),
		When: m.GetWhen(), Mode: mode, Owner: m.GetOwner(),
	}, nil
}

// PB is the rule on the wire.
func (r Rule) PB() *pb.Rule {
	return &pb.Rule{
		Name: r.Name, From: r.From, To: r.To, Allow: r.Allow, Deny: r.Deny,
		Except: r.Except, Guardrail: r.Guardrail, Boundary: r.Boundary,
		When: r.When, Mode: r.Mode.String(), Owner: r.Owner,
	}
}

// understood refuses messages with fields this schema does not know: a rule that
// is not fully understood must not be enforced in part.
func understood(messages ...proto.Message) error {
	for _, m := range messages {
		if len(m.ProtoReflect().GetUnknown()) > 0 {
			return fault.Hint(fault.Invalidf("has fields of a newer schema"), "upgrade kith here")
		}
	}
	return nil
}

// FromSlice is the set an enforcement point compiles. It refuses a slice that it
// does not fully understand.
func FromSlice(m *pb.Slice) (Set, error) {
	if m.GetSchema() > Schema {
		return Set{}, fault.Hint(fault.Invalidf("policy schema %d is newer than %d", m.GetSchema(), Schema), "upgrade kith here")
	}
	if err := understood(m); err != nil {
		return Set{}, fault.Invalidf("policy: %w", err)
	}
	td, err := spiffe.ParseTrustDomain(m.GetTrustDomain())
	if err != nil {
		return Set{}, fault.Wrap(fault.Invalid, err)
	}
	set := Set{TrustDomain: td, Revision: m.GetRevision(), Services: map[string]Service{}, Rules: map[string]Rule{}}
	for name, named := range m.GetNamed() {
		if set.Services[name], err = ServiceFromPB(named); err != nil {
			return Set{}, err
		}
		if named.GetName() != name {
			return Set{}, fault.Invalidf("service %q is sent as %q", clip(named.GetName()), clip(name))
		}
	}
	for _, service := range m.GetServices() {
		if set.Services[service.GetName()], err = ServiceFromPB(service); err != nil {
			return Set{}, err
		}
	}
	for _, rule := range m.GetRules() {
		if _, twice := set.Rules[rule.GetName()]; twice {
			return Set{}, fault.Invalidf("rule %q comes twice", clip(rule.GetName()))
		}
		if set.Rules[rule.GetName()], err = RuleFromPB(rule); err != nil {
			return Set{}, err
		}
	}
	return set, nil
}

// PB is what was decided on the wire; who and what it was about is the caller's
// to fill in.
func (d Decision) PB() *pb.Decision {
	m := &pb.Decision{
		Effect: d.Effect.String(), Rule: d.Rule, Reason: d.Reason.String(), Revision: d.Revision, Observed: d.Observed,
		NearRule: d.Near.Rule, NearField: d.Near.Field, NearWant: d.Near.Want, NearGot: d.Near.Got,
	}
	if d.Shadow != (Shadowed{}) {
		m.ShadowEffect, m.ShadowRule, m.ShadowReason = d.Shadow.Effect.String(), d.Shadow.Rule, d.Shadow.Reason.String()
	}
	return m
}

// DecisionFromPB reads back what PB wrote. An effect or reason it does not know
// is refused.
func DecisionFromPB(m *pb.Decision) (Decision, error) {
	d := Decision{
		Rule: m.GetRule(), Revision: m.GetRevision(), Observed: m.GetObserved(),
		Near: NearMiss{Rule: m.GetNearRule(), Field: m.GetNearField(), Want: m.GetNearWant(), Got: m.GetNearGot()},
	}
	var err error
	if d.Effect, err = parseEffect(m.GetEffect()); err != nil {
		return Decision{}, err
	}
	if d.Reason, err = parseReason(m.GetReason()); err != nil {
		return Decision{}, err
	}
	if m.GetShadowEffect() == "" {
		return d, nil
	}
	d.Shadow.Rule = m.GetShadowRule()
	if d.Shadow.Effect, err = parseEffect(m.GetShadowEffect()); err != nil {
		return Decision{}, err
	}
	if d.Shadow.Reason, err = parseReason(m.GetShadowReason()); err != nil {
		return Decision{}, err
	}
	return d, nil
}

func parseEffect(s string) (Effect, error) {
	for _, e := range []Effect{Deny, Allow} {
		if s == e.String() {
			return e, nil
		}
	}
	return Deny, fault.Invalidf("unknown effect %q", clip(s))
}

func parseReason(s string) (Reason, error) {
	for r := NoPolicy; r <= lastReason; r++ {
		if s == r.String() {
			return r, nil
		}
	}
	return NoPolicy, fault.Invalidf("unknown reason %q", clip(s))
}
