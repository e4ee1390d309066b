package server

import (
	"context"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

// Why asks the agents what they decided, newest first. A decision nobody knows
// yet is asked for again for a while: enforcement points report in batches.
func (s *Server) Why(ctx context.Context, req *pb.WhyRequest) ([]*pb.Decision, error) {
	limit := int(min(req.GetLimit(), maxDecisions))
	if req.GetLast() || req.GetId() != "" || limit == 0 {
		limit = max(limit, 1)
	}
	end := s.cfg.Now().Add(unknownLimit)
	for {
		decisions, err := s.hub.ask(ctx, &pb.WhyQuery{
			Id: req.GetId(), Last: req.GetLast(), Limit: uint32(limit), DeniedOnly: req.GetDeniedOnly(),
		})
		if err != nil {
			return nil, err
		}
		if len(decisions) > 0 || !s.cfg.Now().Before(end) {
			snap := s.snap()
			for i, d := range decisions[:min(limit, len(decisions))] {
				decisions[i] = snap.explained(d)
			}
			return decisions[:min(limit, len(decisions))], nil
		}
		pause := time.NewTimer(unknownPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
}

// explained fills in the one-line fix of a denial.
func (s *snapshot) explained(d *pb.Decision) *pb.Decision {
	allowed := d.GetEffect() == policy.Allow.String() && !d.GetObserved()
	if allowed && d.GetHint() == "" {
		return d
	}
	d = proto.CloneOf(d)
	d.Hint = "" // what a point or a node would have people type is not passed on
	decision, err := policy.DecisionFromPB(d)
	if allowed || err != nil {
		return d
	}
	from := s.callName(d.GetFrom())
	near, _ := s.policy.Rule(decision.Near.Rule)
	if d.GetProtocol() == policy.GRPC.String() && d.GetMethod() == "POST" { // in the words of gRPC, where the path is one of its methods
		d.Hint = policy.Fix(decision, from, d.GetTo(), "grpc", strings.TrimPrefix(d.GetPath(), "/"), near.When)
	}
	if d.GetHint() == "" {
		d.Hint = policy.Fix(decision, from, d.GetTo(), d.GetMethod(), d.GetPath(), near.When)
	}
	return d
}

// callName is how a person names a caller: its service, else its ID, without
// the own trust domain.
func (s *snapshot) callName(from string) string {
	id, err := spiffe.ParseID(from)
	if err != nil {
		return from
	}
	if name := s.serviceOf(id); name != "" {
		return name
	}
	if id.TrustDomain() == s.trustDomain {
		return id.Path()
	}
	return from
}

// Test says what would be decided now, from the snapshot.
func (s *Server) Test(_ context.Context, req *pb.TestRequest) (*pb.Decision, error) {
	snap := s.snap()
	from, err := snap.resolve(req.GetFrom())
	if err != nil {
		return nil, err
	}
	if _, ok := snap.policy.Service(req.GetTo()); !ok {
		return nil, snap.unknownService(req.GetTo())
	}
	set := snap.policy.Slice(req.GetTo())
	set.Revision = snap.revision
	table, err := policy.Compile(set, req.GetTo())
	if err != nil {
		return nil, err
	}
	request := policy.Request{Protocol: table.Protocol(), Method: req.GetMethod(), Path: req.GetPath()}
	if req.GetProtocol() != "" {
		if request.Protocol, err = policy.ParseProtocol(req.GetProtocol()); err != nil {
			return nil, err
		}
	}
	request.GRPC = request.Protocol == policy.GRPC
	if req.GetPort() > 65535 {
		return nil, fault.Invalidf("port: %d", req.GetPort())
	}
	request.Port = uint16(req.GetPort())
	if err := s.suppose(&request, req); err != nil {
		return nil, err
	}
	if request.Protocol != policy.TCP {
		if request.Path, err = policy.NormalizePath(req.GetPath(), table.Paths()); err != nil {
			return nil, fault.Hint(fault.Wrap(fault.Invalid, err), "such a request gets 400, reason path_not_canonical, whatever the rules say")
		}
	}
	decision := table.Explain(table.Peer(from), request)
	out := decision.PB()
	out.From, out.To, out.Protocol = from.String(), req.GetTo(), request.Protocol.String()
	out.Method, out.Path, out.Port = request.Method, request.Path, req.GetPort()
	return snap.explained(out), nil
}

// resolve reads a caller as a person names it: a service, a path, a whole ID,
// or anonymous.
func (s *snapshot) resolve(from string) (spiffe.ID, error) {
	switch {
	case from == "anonymous":
		return spiffe.ID{}, nil
	case strings.HasPrefix(from, "/"):
		id, err := spiffe.NewID(s.trustDomain, from)
		return id, fault.Wrap(fault.Invalid, err)
	case strings.Contains(from, "://"):
		id, err := spiffe.ParseID(from)
		return id, fault.Wrap(fault.Invalid, err)
	}
	service, ok := s.policy.Service(from)
	if !ok {
		return spiffe.ID{}, s.unknownService(from)
	}
	ids, err := service.IDs(s.trustDomain)
	if err != nil || len(ids) == 0 {
		return spiffe.ID{}, fault.Invalidf("service %s has no identity", from)
	}
	return ids[0], nil
}

func (s *snapshot) unknownService(name string) error {
	err := fault.NotFoundf("unknown service %q", name)
	if near := fault.Nearest(name, s.serviceNames()); near != "" {
		return fault.Hint(err, "did you mean %s?", near)
	}
	return fault.Hint(err, "kith services lists what there is")
}
