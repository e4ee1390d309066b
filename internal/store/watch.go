package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch implements registry.Store. The engine's revision moves by one with
// each transaction, as ours does, so the distance is the same in both.
func (e *Etcd) Watch(ctx context.Context, prefix string, after registry.Version) (registry.Watch, error) {
	ctx, cancel := limited(ctx, readLimit)
	defer cancel()
	w := &etcdWatch{store: e, prefix: prefix, after: after}
	w.life, w.end = context.WithCancel(e.life)
	if err := w.open(ctx); err != nil {
		w.end()
		return nil, fmt.Errorf("watch %s: %w", prefix, err)
	}
	return w, nil
}

// etcdWatch follows the whole key space, the revision included, and keeps what
// is below its prefix: a transaction without the revision would be a gap.
type etcdWatch struct {
	store  *Etcd
	prefix string
	life   context.Context // ends with Close, or the store's
	end    context.CancelFunc
	once   sync.Once

	after  registry.Version   // owned by the goroutine that calls Next
	events clientv3.WatchChan // owned by the goroutine that calls Next
	queue  []registry.Batch   // owned by the goroutine that calls Next
	stop   context.CancelFunc // owned by the goroutine that calls Next; ends the engine's watch
}

// open starts the engine's watch behind the version.
func (w *etcdWatch) open(ctx context.Context) error {
	response, err := w.store.client.Get(ctx, revisionKey)
	if err != nil {
		return w.store.readError("read revision", err)
	}
	now, err := decodeRevision(response.Kvs)
	if err != nil {
		return err
	}
	if w.after > now.version {
		return fault.Conflictf("version %d is ahead of the store's %d", w.after, now.version)
	}
	at := response.Header.Revision
	if w.after < now.version {
		if at, err = w.engineRevision(ctx, now); err != nil {
			return err
		}
	}
	watching, stop := context.WithCancel(w.life)
	w.stop = stop
	w.events = w.store.client.Watch(watching, dataPrefix, clientv3.WithRange(watchEnd), clientv3.WithRev(at+1))
	return nil
}

// engineRevision is where the version was made, if its history is still there.
func (w *etcdWatch) engineRevision(ctx context.Context, now revision) (int64, error) {
	at := now.engine - int64(now.version-w.after)
	if at < 1 {
		return 0, fmt.Errorf("version %d: %w", w.after, registry.ErrCompacted)
	}
	response, err := w.store.client.Get(ctx, revisionKey, clientv3.WithRev(at))
	if err != nil {
		if isCompacted(err) {
			return 0, fmt.Errorf("version %d: %w", w.after, registry.ErrCompacted)
		}
		return 0, w.store.readError("read revision", err)
	}
	then, err := decodeRevision(response.Kvs)
	if err != nil {
		return 0, err
	}
	if then.version != w.after {
		return 0, fmt.Errorf("version %d: %w", w.after, registry.ErrCompacted)
	}
	return at, nil
}

// Next implements registry.Watch.
func (w *etcdWatch) Next(ctx context.Context) (registry.Batch, error) {
	for {
		if w.life.Err() != nil {
			return registry.Batch{}, errWatchClosed()
		}
		for len(w.queue) > 0 {
			batch := w.queue[0]
			w.queue = w.queue[1:]
			if batch.Version != w.after+1 {
				return registry.Batch{}, fmt.Errorf("watch %s: version %d follows %d", w.prefix, batch.Version, w.after)
			}
			w.after = batch.Version
			if batch.Events = touches(batch.Events, w.prefix); len(batch.Events) > 0 {
				return batch, nil
			}
		}
		select {
		case response, ok := <-w.events:
			if err := w.receive(ctx, response, ok); err != nil {
				return registry.Batch{}, err
			}
		case <-ctx.Done():
			return registry.Batch{}, ctx.Err()
		case <-w.life.Done():
			return registry.Batch{}, errWatchClosed()
		}
	}
}

// receive queues what the engine sent, or starts its watch again where ours
// stands when it ended for any reason but lost history.
func (w *etcdWatch) receive(ctx context.Context, response clientv3.WatchResponse, ok bool) error {
	if response.CompactRevision != 0 {
		return fmt.Errorf("watch %s: version %d: %w", w.prefix, w.after, registry.ErrCompacted)
	}
	if !ok || response.Err() != nil {
		if w.life.Err() != nil {
			return errWatchClosed()
		}
		w.stop()
		pause(ctx)
		limited, cancel := limited(ctx, readLimit)
		defer cancel()
		if err := w.open(limited); err != nil {
			return fmt.Errorf("watch %s: resume: %w", w.prefix, err)
		}
		return nil
	}
	return w.split(response.Events)
}

// split groups events by the transaction that made them. The engine never
// splits one transaction over two responses.
func (w *etcdWatch) split(events []*clientv3.Event) error {
	for len(events) > 0 {
		n := slices.IndexFunc(events, func(e *clientv3.Event) bool { return e.Kv.ModRevision != events[0].Kv.ModRevision })
		if n < 0 {
			n = len(events)
		}
		batch, err := decodeBatch(events[:n])
		if err != nil {
			return fmt.Errorf("watch %s: %w", w.prefix, err)
		}
		w.queue = append(w.queue, batch)
		events = events[n:]
	}
	return nil
}

func decodeBatch(events []*clientv3.Event) (registry.Batch, error) {
	var batch registry.Batch
	for _, e := range events {
		if string(e.Kv.Key) == revisionKey {
			r, err := decodeRevision([]*mvccpb.KeyValue{e.Kv})
			if err != nil {
				return registry.Batch{}, err
			}
			batch.Version = r.version
			continue
		}
		if e.Type == clientv3.EventTypeDelete {
			batch.Events = append(batch.Events, registry.Event{Key: strings.TrimPrefix(string(e.Kv.Key), dataPrefix), Deleted: true})
			continue
		}
		item, err := decodeItem(e.Kv)
		if err != nil {
			return registry.Batch{}, err
		}
		batch.Events = append(batch.Events, registry.Event{Key: item.Key, Value: item.Value})
	}
	if batch.Version == 0 {
		return registry.Batch{}, fmt.Errorf("a change without a version; something else writes to the store")
	}
	sortEvents(batch.Events)
	return batch, nil
}

// Close implements registry.Watch.
func (w *etcdWatch) Close() error {
	w.once.Do(w.end)
	return nil
}
