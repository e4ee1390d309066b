package server

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// List shows objects, from the snapshot.
func (s *Server) List(_ context.Context, kind, name string) (*pb.ListResponse, error) {
	if kind != "" && !slices.Contains(registry.Kinds(), registry.Kind(kind)) {
		return nil, fault.Invalidf("unknown kind %q: one of %v", kind, registry.Kinds())
	}
	snap := s.snap()
	out := &pb.ListResponse{Revision: snap.revision}
	var names []string
	for _, key := range snap.sorted() {
		if kind != "" && string(key.kind) != kind {
			continue
		}
		names = append(names, key.name)
		if name == "" || key.name == name {
			out.Objects = append(out.Objects, snap.object(key))
		}
	}
	if name != "" && len(out.GetObjects()) == 0 {
		err := fault.NotFoundf("there is no %s", strings.TrimSpace(kind+" "+name))
		if near := fault.Nearest(name, names); near != "" {
			return nil, fault.Hint(err, "did you mean %s?", near)
		}
		return nil, err
	}
	return out, nil
}

// ListNodes shows every node, by name.
func (s *Server) ListNodes(context.Context) ([]*pb.NodeInfo, error) {
	var out []*pb.NodeInfo
	for name := range s.snap().members {
		out = append(out, s.nodeInfo(name))
	}
	slices.SortFunc(out, func(a, b *pb.NodeInfo) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out, nil
}

// nodeInfo is what operators see of a node.
func (s *Server) nodeInfo(name string) *pb.NodeInfo {
	snap := s.snap()
	m := snap.members[name]
	l, connected := s.hub.state(name)
	last, expires := s.seen.of(name)
	if expires.IsZero() {
		expires = m.node.Expires
	}
	for _, t := range []time.Time{l.lastSeen, m.node.LastAttested} {
		if t.After(last) {
			last = t
		}
	}
	info := &pb.NodeInfo{
		Name: name, Class: m.node.Class, Attestor: m.node.Attestor, Banned: snap.banned(name),
		Connected: connected, Revision: l.revision, Version: l.version, Address: l.remote,
		Endpoints:  uint32(s.directory.count(name)),
		JoinedUnix: unixOf(m.node.Joined), LastSeenUnix: unixOf(last), SvidExpiresUnix: unixOf(expires),
	}
	if id, err := nodeID(snap.trustDomain, name); err == nil {
		info.SpiffeId = id.String()
	}
	return info
}

func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// ListIdentities shows what this server issued and still holds.
func (s *Server) ListIdentities(context.Context) ([]*pb.IdentityInfo, error) {
	rows := s.issued.list(s.cfg.Now())
	snap := s.snap()
	services := snap.servicesByID()
	out := make([]*pb.IdentityInfo, len(rows))
	for i, row := range rows {
		out[i] = &pb.IdentityInfo{
			SpiffeId: row.GetSpiffeId(), Rule: row.GetRule(), Node: row.GetNode(), Serial: row.GetSerial(),
			ExpiresUnix: row.GetExpiresUnix(), IssuedUnix: row.GetIssuedUnix(),
			Service: services[row.GetSpiffeId()],
		}
	}
	return out, nil
}

// servicesByID is the first service of each identity.
func (s *snapshot) servicesByID() map[string]string {
	out := make(map[string]string)
	for name := range s.policy.Services() {
		for _, id := range s.identitiesOf(name) {
			if other, ok := out[id]; !ok || name < other {
				out[id] = name
			}
		}
	}
	return out
}

// Status is the server's state in one message.
func (s *Server) Status(context.Context) (*pb.StatusResponse, error) {
	snap := s.snap()
	status := s.ca.Status()
	store, reason := s.storeState()
	if reason != "" {
		store += ": " + reason
	}
	entries, _ := s.directory.build(snap, s.cfg.Now())
	services, rules := snap.policy.Count()
	return &pb.StatusResponse{
		Version: s.cfg.Version, TrustDomain: snap.trustDomain.String(), Revision: snap.revision, Store: store,
		Nodes: uint32(len(snap.members)), NodesConnected: uint32(s.hub.connected()),
		Services: uint32(services), Rules: uint32(rules),
		IdentityRules:   uint32(len(snap.rules.IdentityRules)),
		RootExpiresUnix: unixOf(status.RootNotAfter), IssuingCaExpiresUnix: unixOf(status.IssuingNotAfter),
		Address: s.address(), Pin: s.Pin().String(), StartedUnix: unixOf(s.started),
		JournalUsed: status.JournalUsed, Dev: s.cfg.Dev, MetricsAddress: s.MetricsAddr(),
		Alarms: s.alarms(), NowUnixNano: s.cfg.Now().UnixNano(), Directory: entries,
		AdminAddress: s.AdminAddr(), Wit: s.cfg.WIT,
	}, nil
}
