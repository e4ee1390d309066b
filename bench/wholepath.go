package main

import (
	"sync/atomic"

	"github.com/kith-id/kith/internal/policy"
)

// record is what the log keeps of an allowed request: counters and the newest
// decision, in a ring that nobody waits for.
type record struct {
	decision policy.Decision
	peer     int
	path     string
}

// newKithPath is the whole path of a request through the proxy's decision: the
// path as sent is normalised, the snapshot loaded, the request decided, and the
// decision recorded.
func newKithPath(rules []spec, asked []query) (func() (engine, error), error) {
	set, err := kithSet(rules)
	if err != nil {
		return nil, err
	}
	return func() (engine, error) {
		table, peers, err := kithTable(set, asked)
		var current atomic.Pointer[policy.Table]
		current.Store(table)
		var ring [1024]record
		var next atomic.Uint64
		return func(i int) (bool, error) {
			snapshot := current.Load()
			path, err := policy.NormalizePath(asked[i].path, snapshot.Paths())
			if err != nil {
				return false, err
			}
			d := snapshot.Decide(peers[i], policy.Request{Protocol: policy.HTTP, Method: asked[i].method, Path: path})
			ring[next.Add(1)%uint64(len(ring))] = record{d, i, path}
			return d.Effect == policy.Allow, nil
		}, err
	}, nil
}
