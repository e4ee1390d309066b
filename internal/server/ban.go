package server

import (
	"context"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
)

// BanNode cuts a node off at once and renews nothing for it any more; what it
// holds ends with its lifetime. Lifting a ban lets it rejoin by its key.
func (s *Server) BanNode(ctx context.Context, by, name string, lift bool) (*pb.ChangeResult, error) {
	verb := "ban"
	if lift {
		verb = "lift the ban of"
	}
	return s.changeNode(ctx, by, verb, name, func(m member) (registry.Txn, error) {
		m.node.Banned = !lift
		value, err := m.node.Marshal()
		if err != nil {
			return registry.Txn{}, err
		}
		return registry.Txn{
			If: []registry.Condition{registry.IfUnchanged(m.item)},
			Do: []registry.Op{registry.Put(m.item.Key, value)},
		}, nil
	})
}

// RemoveNode forgets a node, its key and its ban; only a new token admits one
// of that name again.
func (s *Server) RemoveNode(ctx context.Context, by, name string) (*pb.ChangeResult, error) {
	return s.changeNode(ctx, by, "remove", name, func(m member) (registry.Txn, error) {
		return registry.Txn{
			If: []registry.Condition{registry.IfUnchanged(m.item)},
			Do: []registry.Op{registry.Delete(m.item.Key)},
		}, nil
	})
}

// changeNode changes one node's record and waits until this server acts by it.
func (s *Server) changeNode(ctx context.Context, by, verb, name string, make func(member) (registry.Txn, error)) (*pb.ChangeResult, error) {
	began := s.cfg.Now()
	for try := 1; ; try++ {
		snap := s.snap()
		m, ok := snap.members[name]
		if !ok {
			return nil, snap.unknownNode(name)
		}
		info := s.nodeInfo(name)
		connected := info.GetConnected()
		txn, err := make(m)
		if err != nil {
			return nil, err
		}
		event := audit.Event{Kind: audit.Changed, Actor: by, Object: verb + " node " + name}
		version, err := s.audited(ctx, event, func() (registry.Version, error) { return s.commit(ctx, txn) })
		if fault.Is(err, fault.Conflict) && try < conflictTries {
			if err := s.arriveKey(ctx, m.item.Key); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := s.arrive(ctx, version); err != nil {
			return nil, err
		}
		if s.snap().member(name) != nil {
			s.issued.drop(name)
			s.seen.drop(name)
		}
		s.log.Info("node changed", "node", name, "change", verb, "by", by)
		info.Connected = false
		s.events.publish(&pb.WatchEvent{Event: verb, Node: info}, s.cfg.Now())
		result := &pb.ChangeResult{Revision: s.snap().revision, Took: durationpb.New(s.cfg.Now().Sub(began))}
		if connected {
			result.Affected, result.Acked = 1, 1
		}
		return result, nil
	}
}

// arriveKey waits until the snapshot has a key as the store has it now.
func (s *Server) arriveKey(ctx context.Context, key string) error {
	limit, cancel := s.patience(ctx)
	defer cancel()
	item, err := s.cfg.Store.Get(limit, key)
	if fault.Is(err, fault.NotFound) {
		return s.arriveLatest(ctx)
	}
	if err != nil {
		return err
	}
	return s.arrive(ctx, item.Version)
}

func (s *snapshot) unknownNode(name string) error {
	err := fault.NotFoundf("there is no node %s", name)
	names := make([]string, 0, len(s.members))
	for n := range s.members {
		names = append(names, n)
	}
	slices.Sort(names)
	if near := fault.Nearest(name, names); near != "" {
		return fault.Hint(err, "did you mean %s?", near)
	}
	return fault.Hint(err, "kith nodes list")
}
