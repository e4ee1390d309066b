package kith

import (
	"context"
	"net"
	"strings"
	"sync"

	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/resolver"

	"github.com/kith-id/kith/internal/fault"
)

const (
	targetScheme  = "kith"
	overEndpoints = `{"loadBalancingConfig": [{"round_robin": {}}]}`
	nobodyThere   = `{"loadBalancingConfig": [{"pick_first": {}}]}`
)

// calledKey holds the target in an address's attributes, versionKey whatever a
// change of must lead to new connections.
type (
	calledKey  struct{}
	versionKey struct{}
)

// calledTarget is the kith:/// target a handshake is for, and nil for another
// address; version is that of the target's endpoints it was begun with.
func calledTarget(ctx context.Context) (t *target, version string) {
	about := credentials.ClientHandshakeInfoFromContext(ctx).Attributes
	t, _ = about.Value(calledKey{}).(*target)
	version, _ = about.Value(versionKey{}).(string)
	return t, version
}

// resolvers are the open kith:/// targets; each follows the directory and our
// own identity.
type resolvers struct {
	mu  sync.Mutex
	all map[*target]struct{} // guarded by mu
}

func (r *resolvers) init() { r.all = make(map[*target]struct{}) }

// again tells every target what holds now.
func (r *resolvers) again() {
	r.mu.Lock()
	all := make([]*target, 0, len(r.all))
	for t := range r.all {
		all = append(all, t)
	}
	r.mu.Unlock()
	for _, t := range all { // not under mu: gRPC has locks of its own
		t.tell()
	}
}

type targetBuilder struct{ w *Workload }

// Scheme is kith, as in kith:///orders.
func (targetBuilder) Scheme() string { return targetScheme }

// Build opens a target.
func (b targetBuilder) Build(to resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	service := to.Endpoint()
	if to.URL.Host != "" || service == "" || strings.ContainsAny(service, "/:") {
		return nil, fault.Hint(fault.Invalidf("target %q names no service", clip(to.String(), maxReportText)), "write kith:///orders")
	}
	t := &target{w: b.w, service: service, cc: cc}
	b.w.targets.mu.Lock()
	b.w.targets.all[t] = struct{}{}
	b.w.targets.mu.Unlock()
	t.tell()
	return t, nil
}

// target is one service a ClientConn calls.
type target struct {
	w       *Workload
	service string
	cc      resolver.ClientConn

	mu   sync.Mutex // what is told later is newer
	told bool       // of endpoints; guarded by mu

	open sync.Map // *leavable -> version of the endpoints it is to
}

// watched is a new connection that leaves when its version has passed.
func (t *target) watched(conn net.Conn, version string) net.Conn {
	c := &leavable{Conn: conn, gone: func(c *leavable) { t.open.Delete(c) }}
	t.open.Store(c, version)
	return c
}

// leaveOthers makes the connections of other versions take no more calls.
func (t *target) leaveOthers(version string) {
	t.open.Range(func(conn, of any) bool {
		if of != version {
			conn.(*leavable).leave()
		}
		return true
	})
}

// tell gives gRPC the endpoints. With another set of identities, or another leaf
// of our own, they are other addresses to it: calls take new connections while
// those under way on old ones finish.
func (t *target) tell() {
	t.mu.Lock()
	defer t.mu.Unlock()
	dest, err := t.w.directory.Load().find(t.service)
	if err != nil {
		if t.told { // the connections are to go; round_robin would then hide err
			none := resolver.State{ServiceConfig: t.cc.ParseServiceConfig(nobodyThere)}
			t.cc.UpdateState(none) //nolint:errcheck // that it has no addresses is the point
		}
		t.cc.ReportError(err)
		t.leaveOthers("")
		return
	}
	version := dest.generation + "." + t.w.epoch()
	facts := attributes.New(calledKey{}, t).WithValue(versionKey{}, version)
	state := resolver.State{Addresses: make([]resolver.Address, len(dest.endpoints))}
	for i, endpoint := range dest.endpoints {
		state.Addresses[i] = resolver.Address{Addr: endpoint, Attributes: facts}
	}
	t.told = true
	if err := t.cc.UpdateState(state); err != nil {
		t.w.cfg.Log.Debug("endpoints not taken", "service", t.service, "error", err)
	}
	t.leaveOthers(version) // which gRPC has given up by now
}

// ResolveNow does nothing: changes come by themselves.
func (t *target) ResolveNow(resolver.ResolveNowOptions) {}

// Close ends the following.
func (t *target) Close() {
	t.w.targets.mu.Lock()
	defer t.w.targets.mu.Unlock()
	delete(t.w.targets.all, t)
}
