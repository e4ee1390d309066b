package store

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/kith-id/kith/internal/registry"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The engine's key space: every key of ours below dataPrefix, and the revision
// beside them, so that one watch sees both.
const (
	dataPrefix  = "k/"
	revisionKey = "r"
	watchEnd    = "s" // the first key after both
)

// versionBytes is the version before each value.
const versionBytes = 8

// revision is the counter that every transaction moves by one. The tag names
// the transaction that did, so that a commit cut off in flight can be found
// again.
type revision struct {
	version registry.Version
	tag     [16]byte
	engine  int64 // engine revision at which it was written; 0 for none
}

func (r revision) next() revision {
	n := revision{version: r.version + 1}
	_, _ = rand.Read(n.tag[:]) // never fails, says crypto/rand
	return n
}

func (r revision) encode() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(r.version))
	return string(append(b, r.tag[:]...))
}

// decodeRevision reads the revision key's answer; no answer is version 0.
func decodeRevision(kvs []*mvccpb.KeyValue) (revision, error) {
	if len(kvs) == 0 {
		return revision{}, nil
	}
	value := kvs[0].Value
	r := revision{engine: kvs[0].ModRevision}
	if len(value) != versionBytes+len(r.tag) {
		return revision{}, fmt.Errorf("the store's revision has %d bytes; its data is damaged", len(value))
	}
	r.version = registry.Version(binary.BigEndian.Uint64(value))
	copy(r.tag[:], value[versionBytes:])
	return r, nil
}

func encodeValue(version registry.Version, value []byte) string {
	b := make([]byte, 0, versionBytes+len(value))
	b = binary.BigEndian.AppendUint64(b, uint64(version))
	return string(append(b, value...))
}

func decodeItem(kv *mvccpb.KeyValue) (registry.Item, error) {
	key := strings.TrimPrefix(string(kv.Key), dataPrefix)
	if len(kv.Value) < versionBytes {
		return registry.Item{}, fmt.Errorf("the value of %s has %d bytes; the store's data is damaged", key, len(kv.Value))
	}
	return registry.Item{
		Key: key, Value: kv.Value[versionBytes:],
		Version: registry.Version(binary.BigEndian.Uint64(kv.Value)),
	}, nil
}
