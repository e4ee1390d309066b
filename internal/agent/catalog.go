package agent

import (
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

// catalog is the directory of services as callers see it. It stays as it is
// while the server is away.
type catalog struct {
	mu      sync.Mutex
	entries map[string]*pb.DirectoryEntry // guarded by mu; the entries are immutable
}

// apply takes a directory from the server: a whole one replaces, a partial one
// only adds, because a server that just started does not know everybody yet.
func (c *catalog) apply(in *pb.Directory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := make(map[string]*pb.DirectoryEntry, len(in.GetEntries()))
	if in.GetPartial() {
		maps.Copy(next, c.entries)
	}
	for _, e := range in.GetEntries() {
		if former, ok := next[e.GetService()]; ok {
			e = merge(former, e)
		}
		next[e.GetService()] = e
	}
	c.entries = next
}

// merge is the newer entry with the endpoints of the former that it lacks.
func merge(former, newer *pb.DirectoryEntry) *pb.DirectoryEntry {
	out := proto.CloneOf(newer)
	for _, e := range former.GetEndpoints() {
		known := slices.ContainsFunc(out.Endpoints, func(n *pb.Endpoint) bool {
			return n.GetAddress() == e.GetAddress() && n.GetNode() == e.GetNode()
		})
		if !known {
			out.Endpoints = append(out.Endpoints, e)
		}
	}
	return out
}

// view is the whole directory, sorted by service.
func (c *catalog) view() *pb.DirectoryView {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &pb.DirectoryView{}
	for _, name := range slices.Sorted(maps.Keys(c.entries)) {
		out.Entries = append(out.Entries, c.entries[name])
	}
	return out
}
