package server

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/kith-id/kith/internal/registry"
)

const (
	flushEvery = 30 * time.Second
	flushBatch = 500
	sweepEvery = 5 * time.Minute
	// manyObjects is from when on what a start leaves behind is worth giving back.
	manyObjects = 10_000
)

// flush writes what renewals left behind in batches, and the clock, until ctx
// ends; then once more. It also clears away what nobody came for.
func (s *Server) flush(ctx context.Context) error {
	if s.snap().objects.Len() > manyObjects {
		debug.FreeOSMemory()
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-tick.C:
			s.flushOnce(ctx)
		case <-sweep.C:
			s.sweepTokens(ctx)
			s.sweepAdminTokens(ctx)
		case <-ctx.Done():
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			s.flushOnce(limit)
			return nil
		}
	}
}

func (s *Server) flushOnce(ctx context.Context) {
	pending := s.seen.take()
	if s.writable() != nil {
		s.seen.put(pending)
		return
	}
	batch := make(map[string]standing)
	for name, p := range pending {
		batch[name] = p
		if len(batch) == flushBatch {
			s.flushNodes(ctx, batch)
			batch = make(map[string]standing)
		}
	}
	s.flushNodes(ctx, batch)
}

// flushNodes writes one batch. A record that changed meanwhile fails the batch;
// it comes again with the next one, made from the record as it is then.
func (s *Server) flushNodes(ctx context.Context, batch map[string]standing) {
	snap := s.snap()
	txn := registry.Txn{Do: []registry.Op{registry.Put(clockKey, clockValue(s.cfg.Now()))}}
	for name, p := range batch {
		m, ok := snap.members[name]
		if !ok {
			continue // removed meanwhile
		}
		m.node.Expires = p.expires.UTC()
		if p.attested.After(m.node.LastAttested) {
			m.node.LastAttested = p.attested.UTC()
		}
		value, err := m.node.Marshal()
		if err != nil {
			s.log.Error("node record not written", "node", name, "error", err)
			continue
		}
		txn.If = append(txn.If, registry.IfUnchanged(m.item))
		txn.Do = append(txn.Do, registry.Put(m.item.Key, value))
	}
	if _, err := s.commit(ctx, txn); err != nil {
		s.seen.put(batch)
		s.log.Debug("node records not written yet", "error", err)
	}
}
