package policy

import (
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
	if err := understood(m, m.GetPaths()); err != nil {
		return Service{}, fault.Invalidf("service %q: %w", clip(m.GetName()), err)
	}
	protocol, err := ParseProtocol(m.GetProtocol())
	if err != nil {
		return Service{}, fault.Hint(fault.Invalidf("services.%s.protocol: %w", clip(m.GetName()), err), "%s", fault.HintOf(err))
	}
	return Service{
		Name: m.GetName(), Identities: m.GetIdentities(), Protocol: protocol, RunAs: m.GetRunAs(),
		Paths: PathOptions{
			KeepEncodedSlash: m.GetPaths().GetKeepEncodedSlash(),
			KeepDoubleSlash:  m.GetPaths().GetKeepDoubleSlash(),
		},
		Endpoints: m.GetEndpoints(), Owner: m.GetOwner(),
	}, nil
}

// PB is the service on the wire.
func (s Service) PB() *pb.Service {
	m := &pb.Service{
		Name: s.Name, Identities: s.Identities, Protocol: s.Protocol.String(), RunAs: s.RunAs,
		Endpoints: s.Endpoints, Owner: s.Owner,
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
	return Rule{
		Name: m.GetName(), From: m.GetFrom(), To: m.GetTo(), Allow: m.GetAllow(), Deny: m.GetDeny(),
		Except: m.GetExcept(), Guardrail: m.GetGuardrail(), Owner: m.GetOwner(),
	}, nil
}

// PB is the rule on the wire.
func (r Rule) PB() *pb.Rule {
	return &pb.Rule{
		Name: r.Name, From: r.From, To: r.To, Allow: r.Allow, Deny: r.Deny,
		Except: r.Except, Guardrail: r.Guardrail, Owner: r.Owner,
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
	return &pb.Decision{
		Effect: d.Effect.String(), Rule: d.Rule, Reason: d.Reason.String(), Revision: d.Revision,
		NearRule: d.Near.Rule, NearField: d.Near.Field, NearWant: d.Near.Want, NearGot: d.Near.Got,
	}
}

// DecisionFromPB reads back what PB wrote. An effect or reason it does not know
// is refused.
func DecisionFromPB(m *pb.Decision) (Decision, error) {
	d := Decision{
		Rule: m.GetRule(), Revision: m.GetRevision(),
		Near: NearMiss{Rule: m.GetNearRule(), Field: m.GetNearField(), Want: m.GetNearWant(), Got: m.GetNearGot()},
	}
	if m.GetEffect() == Allow.String() {
		d.Effect = Allow
	} else if m.GetEffect() != Deny.String() {
		return Decision{}, fault.Invalidf("unknown effect %q", clip(m.GetEffect()))
	}
	for r := NoPolicy; r <= OwnCheck; r++ {
		if r.String() == m.GetReason() {
			d.Reason = r
			return d, nil
		}
	}
	return Decision{}, fault.Invalidf("unknown reason %q", clip(m.GetReason()))
}
