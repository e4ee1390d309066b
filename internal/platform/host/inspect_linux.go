package host

import (
	"context"
	"strconv"

	"github.com/kith-id/kith/internal/attest"
	"github.com/kith-id/kith/internal/registry"
)

// Inspect implements attest.Inspector: every attribute but the pid, which is
// no fact about a workload.
func (h *Host) Inspect(ctx context.Context, peer attest.Peer) (registry.Attributes, error) {
	return h.InspectFor(ctx, peer, func(name string) bool { return name != attrPID })
}

// InspectFor implements attest.Sparing: pid, sha256 and groups only if they are
// wanted. What cannot be read is left out; rules that name it then do not match.
// The process is checked after everything was read, so no fact is of another one.
func (h *Host) InspectFor(ctx context.Context, peer attest.Peer, want func(string) bool) (registry.Attributes, error) {
	seen := sightingOf(peer, want)
	if attrs, ok := h.recent.get(seen); ok {
		own, err := check(peer)
		if err != nil {
			return nil, err
		}
		if own.gid == peer.GID {
			return attrs, nil
		}
	}
	at := h.recent.now()
	attrs, err := h.measure(ctx, peer, want)
	if err == nil && attrs[attrGID] == registry.Int(int64(peer.GID)) {
		h.recent.put(seen, at, attrs)
	}
	return attrs, err
}

// measure reads what the kernel says of a process.
func (h *Host) measure(ctx context.Context, peer attest.Peer, want func(string) bool) (registry.Attributes, error) {
	attrs := registry.Attributes{}
	put := func(name, value string) {
		// A program may lie under any bytes at all; what no rule could hold must
		// not spoil the request of every other workload either.
		if value != "" && (registry.Attributes{name: value}).Validate() == nil {
			attrs[name] = value
		}
	}
	if want(attrPID) {
		attrs[attrPID] = strconv.Itoa(int(peer.PID))
	}
	h.inspectProgram(peer, want, put)
	if text, err := procFile(peer.PID, "cgroup"); err == nil {
		unit, slice, deeper := systemdPlace(string(text))
		if deeper && !sameNamespaces(peer.PID) {
			unit, slice = "", ""
		}
		put(attrUnit, unit)
		put(attrSlice, slice)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var groups []uint32
	if want(attrGroups) {
		status, err := readOwner(peer.PID)
		if err != nil {
			return nil, gone(peer.PID, "is gone")
		}
		groups = status.groups
	}
	own, err := check(peer)
	if err != nil {
		return nil, err
	}
	attrs[attrUID] = registry.Int(int64(own.uid))
	attrs[attrGID] = registry.Int(int64(own.gid))
	put(attrUser, h.names.user(own.uid))
	put(attrGroup, h.names.group(own.gid))
	put(attrGroups, h.groupList(groups))
	return attrs, nil
}

func (h *Host) inspectProgram(peer attest.Peer, want func(string) bool, put func(name, value string)) {
	path := programPath(peer.PID, peer.Exe)
	if path == "" {
		return // neither path nor hash
	}
	put(attrPath, path)
	if !want(attrSHA256) {
		return
	}
	file, version, err := openProgram(peer.PID)
	if err != nil {
		return
	}
	defer file.Close()
	if version.Program != peer.Exe {
		return
	}
	if sum, err := h.hash(file, version); err == nil {
		put(attrSHA256, sum)
	}
}

// groupList names the supplementary groups. A list that would be cut is left
// out: a requirement must never pass because a group is missing from it.
func (h *Host) groupList(gids []uint32) string {
	const most = 256
	if len(gids) > most {
		return ""
	}
	groups := make([]string, 0, len(gids))
	for _, gid := range gids {
		groups = append(groups, h.names.group(gid))
	}
	if list := registry.List(groups...); len(list) <= 4<<10 {
		return list
	}
	return ""
}
