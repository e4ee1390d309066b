package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
)

const maxFaultText = 512

// Member says whether a node may be served, from the snapshot: an SVID for a key
// that the node was bound to before is worth nothing.
func (s *Server) Member(name string, key [32]byte) error {
	snap := s.snap()
	if err := snap.member(name); err != nil {
		return err
	}
	if snap.members[name].node.KeyHash != key {
		return otherKey(name)
	}
	return nil
}

func otherKey(name string) error {
	return fault.Deniedf("node %s was admitted anew with another key", name)
}

// Sync serves one agent's stream: this goroutine sends, another receives.
func (s *Server) Sync(ctx context.Context, node api.Caller, hello *pb.SyncHello, link api.Link) error {
	l, err := s.hub.join(node.Name, node.Remote, hello, link)
	if err != nil {
		return err
	}
	defer s.hub.leave(l)
	if l.strange {
		s.log.Error("node held a revision that this server never had: an older state was put back", "node", node.Name,
			"revision", hello.GetRevision(), "hint", "kith status; what was changed since is to be changed again")
	}
	// The node may have been banned between the check of the call and join.
	if err := s.Member(node.Name, node.Key); err != nil {
		return err
	}
	// Recv returns when this function has: the stream ends with it. Run waits
	// for it through s.streams.
	s.streams.Go(func() { s.hub.end(l, s.receive(l, link)) })
	ends := time.AfterFunc(node.Expires.Sub(s.cfg.Now()), func() {
		s.hub.end(l, api.Unproven{Err: errors.New("the certificate of this connection ended; connect again with the renewed one")})
	})
	defer ends.Stop()
	for {
		sent, err := s.sendNext(l)
		if err != nil {
			return err
		}
		if !sent {
			<-l.wake // by something to send, or by end: also when ctx is done, as Recv fails then
		}
	}
}

// sendNext sends what the stream has to send now; it reports whether there was
// something.
func (s *Server) sendNext(l *link) (bool, error) {
	l.sending.Lock()
	defer l.sending.Unlock()
	full, out, err := s.hub.next(l)
	if err != nil {
		return false, err
	}
	if full != nil {
		if err := l.to.Send(s.stateOf(full, l.node)); err != nil {
			return false, err
		}
	}
	for _, frame := range out {
		if err := l.to.SendFrame(frame); err != nil {
			return false, err
		}
	}
	return full != nil || len(out) > 0, nil
}

// receive takes what the agent says until the stream ends.
func (s *Server) receive(l *link, from api.Link) error {
	for {
		req, err := from.Recv()
		if err != nil {
			return err
		}
		switch m := req.GetMessage().(type) {
		case *pb.SyncRequest_Ack:
			s.hub.ack(l, m.Ack, clipAll(m.Ack.GetErrors()))
		case *pb.SyncRequest_Endpoints:
			if !s.hub.isCurrent(l) {
				continue // what a replaced stream says counts no more
			}
			if err := s.directory.report(l.node, m.Endpoints.GetEndpoints()); err != nil {
				return err
			}
		case *pb.SyncRequest_Interest:
			if err := s.hub.interest(l, m.Interest); err != nil {
				return err
			}
		case *pb.SyncRequest_Why:
			s.hub.answer(l, m.Why)
		case *pb.SyncRequest_Flows:
			s.hub.answerFlows(l, m.Flows)
		case *pb.SyncRequest_LastSeen:
			s.issued.used(l.node, m.LastSeen.GetIdentities(), s.cfg.Now())
		default:
			return fault.Invalidf("a message this server does not know; upgrade it first")
		}
	}
}

// clipAll bounds what an agent says in plain text.
func clipAll(texts []string) []string {
	out := texts[:min(len(texts), 64)]
	for i, t := range out {
		if len(t) > maxFaultText {
			out[i] = t[:maxFaultText] + "…"
		}
	}
	return out
}

// stateOf is everything an agent is to hold, at one snapshot.
func (s *Server) stateOf(snap *snapshot, node string) *pb.SyncResponse {
	m := snap.members[node]
	state := &pb.State{
		Revision:       snap.revision,
		Epoch:          snap.epoch,
		Mark:           snap.mark,
		TrustDomain:    snap.trustDomain.String(),
		Node:           node,
		Class:          m.node.Class,
		NodeAttributes: m.node.Scope(),
		Bundles:        s.bundles(snap),
		NowUnixNano:    s.cfg.Now().UnixNano(),
		Dev:            s.cfg.Dev,
	}
	state.ProtoReflect().SetUnknown(objectsOf(snap))
	return &pb.SyncResponse{Message: &pb.SyncResponse_State{State: state}}
}

// objectsOf is the field of a State that holds the objects, as it goes over the wire:
// they are kept encoded, and to read them for each agent would be for nothing.
func objectsOf(snap *snapshot) []byte {
	field := (*pb.State)(nil).ProtoReflect().Descriptor().Fields().ByName("objects").Number()
	var out []byte
	for _, key := range snap.sorted() {
		encoded, _ := snap.objects.Get(key)
		out = protowire.AppendString(protowire.AppendTag(out, field, protowire.BytesType), encoded)
	}
	return out
}

// bundles is the bundle of the own trust domain, and then those of the others.
func (s *Server) bundles(snap *snapshot) []*pb.Bundle {
	jwks, err := s.ca.Bundle().Marshal()
	if err != nil {
		s.log.Error("bundle not marshalled", "error", err)
		return nil
	}
	return append([]*pb.Bundle{{TrustDomain: snap.trustDomain.String(), Jwks: jwks}}, snap.federated()...)
}

// nodeMoved is told when a node's stream comes or goes.
func (s *Server) nodeMoved(name string) {
	info := s.nodeInfo(name)
	connected := info.GetConnected()
	s.directory.seen(name, connected)
	s.seen.touch(name, s.cfg.Now())
	event := "disconnected"
	if connected {
		event = "connected"
	}
	s.log.Info("node "+event, "node", name, "remote", info.GetAddress())
	s.events.publish(&pb.WatchEvent{Event: event, Node: info}, s.cfg.Now())
}

// runDirectory builds and pushes the directory until ctx ends.
func (s *Server) runDirectory(ctx context.Context) error {
	return s.directory.run(ctx, s.snap, s.hub.connected, func(dir *api.Frame) time.Duration {
		s.hub.direct(dir)
		if dir == nil {
			return 0
		}
		return pushPause(dir.Len(), s.hub.connected())
	})
}
