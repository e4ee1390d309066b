package store

import (
	"context"
	"io"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kith-id/kith/internal/registry"
)

// firstPage is how many items come with the revision; most ranges are shorter.
const firstPage = 1024

// Range implements registry.Store.
func (e *Etcd) Range(ctx context.Context, prefix string) ([]registry.Item, registry.Version, error) {
	var all []registry.Item
	version, err := e.Pages(ctx, prefix, func(items []registry.Item) error {
		all = append(all, items...)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return all, version, nil
}

// Pages implements registry.Store. The first page also reads the revision, in
// one transaction; the rest is the past at the same engine revision, which the
// member sends as a stream: it looks for more while what came is taken, and does
// not count for each page how many there are in all.
func (e *Etcd) Pages(ctx context.Context, prefix string, take func([]registry.Item) error) (registry.Version, error) {
	ctx, cancel := limited(ctx, readLimit)
	defer cancel()
	end := clientv3.WithRange(clientv3.GetPrefixRangeEnd(dataPrefix + prefix))
	response, err := e.client.Txn(ctx).Then(
		clientv3.OpGet(revisionKey),
		clientv3.OpGet(dataPrefix+prefix, end, clientv3.WithLimit(firstPage)),
	).Commit()
	if err != nil {
		return 0, e.readError("range "+prefix, err)
	}
	now, err := decodeRevision(response.Responses[0].GetResponseRange().Kvs)
	if err != nil {
		return 0, err
	}
	first := response.Responses[1].GetResponseRange()
	if err := takeItems(first.Kvs, take); err != nil || !first.More {
		return now.version, err
	}
	from := string(first.Kvs[len(first.Kvs)-1].Key) + "\x00"
	// What the first page has read cannot be unknown to the member by now.
	rest, err := e.client.GetStream(ctx, from, end, clientv3.WithRev(response.Header.Revision), clientv3.WithSerializable())
	if err != nil {
		return 0, e.readError("range "+prefix, err)
	}
	return now.version, e.takeAll(prefix, rest, func(items []registry.Item) error {
		err := take(items)
		if err != nil {
			cancel() // the stream
		}
		return err
	})
}

// takeAll takes what a stream brings, to its end: the client leaves a goroutine
// behind if nobody reads on.
func (e *Etcd) takeAll(prefix string, rest clientv3.GetStreamChan, take func([]registry.Item) error) error {
	var failed error
	whole := false
	for page := range rest {
		switch {
		case failed != nil:
		case page.Err() != nil:
			failed = e.readError("range "+prefix, page.Err())
		default:
			failed = takeItems(page.Kvs, take)
			whole = page.Header != nil && !page.More // only the last one has a header
		}
	}
	if failed == nil && !whole {
		failed = e.readError("range "+prefix, io.ErrUnexpectedEOF)
	}
	return failed
}

func takeItems(kvs []*mvccpb.KeyValue, take func([]registry.Item) error) error {
	if len(kvs) == 0 {
		return nil
	}
	items := make([]registry.Item, 0, len(kvs))
	for _, kv := range kvs {
		item, err := decodeItem(kv)
		if err != nil {
			return err
		}
		items = append(items, item)
	}
	return take(items)
}
