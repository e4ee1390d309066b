package server

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/spiffe"
)

const (
	// endpointGrace is how long a node's endpoints stay after its stream ended:
	// an agent that restarts, or a cable that is pulled, empties no directory.
	endpointGrace = 60 * time.Second
	// settleTime is how long after its start the server only adds to what agents
	// know: not every agent has come back yet.
	settleTime = 10 * time.Second
	// A push waits for others that come at the same time: a little always, more
	// when there is much to send to many.
	directoryGap   = 20 * time.Millisecond
	directoryBytes = 50 << 20 // a second, over all streams

	maxEndpoints    = 4096 // of one node
	maxEndpointText = 512
)

// directory knows who answers for a service and where. It is soft state: the
// endpoints live as long as the stream that reported them, and a while.
type directory struct {
	now     func() time.Time
	started time.Time
	log     *slog.Logger
	dirty   chan struct{} // capacity 1

	mu      sync.Mutex
	nodes   map[string]*presence // guarded by mu
	resting bool                 // guarded by mu; nothing is built until a node connects
}

// presence is what one node reported.
type presence struct {
	endpoints []reported
	gone      time.Time // when its stream ended; zero while it is connected
	refused   int       // of the last build
}

type reported struct {
	service string
	address string
	id      spiffe.ID
}

func newDirectory(now func() time.Time, log *slog.Logger) *directory {
	return &directory{
		now: now, started: now(), log: log,
		dirty: make(chan struct{}, 1),
		nodes: make(map[string]*presence),
	}
}

// report replaces the endpoints of a node.
func (d *directory) report(node string, in []*pb.LocalEndpoint) error {
	if len(in) > maxEndpoints {
		return fault.Invalidf("%d endpoints on one node, at most %d are kept", len(in), maxEndpoints)
	}
	p := &presence{endpoints: make([]reported, 0, len(in))}
	for _, e := range in {
		r, err := readEndpoint(e)
		if err != nil {
			d.log.Warn("endpoint refused", "node", node, "error", err)
			continue
		}
		p.endpoints = append(p.endpoints, r)
	}
	d.mu.Lock()
	d.nodes[node] = p
	d.mu.Unlock()
	d.touch()
	return nil
}

func readEndpoint(e *pb.LocalEndpoint) (reported, error) {
	if len(e.GetService())+len(e.GetAddress()) > maxEndpointText {
		return reported{}, fault.Invalidf("service and address of more than %d bytes", maxEndpointText)
	}
	id, err := spiffe.ParseID(e.GetSpiffeId())
	if err != nil {
		return reported{}, fault.Invalidf("endpoint of %s: %w", e.GetService(), err)
	}
	host, port, err := net.SplitHostPort(e.GetAddress())
	if err != nil {
		return reported{}, fault.Invalidf("endpoint of %s: %w", e.GetService(), err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return reported{}, fault.Invalidf("endpoint of %s: %q is no address to dial", e.GetService(), e.GetAddress())
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return reported{}, fault.Invalidf("endpoint of %s: %q is no address to dial", e.GetService(), e.GetAddress())
	}
	return reported{service: e.GetService(), address: e.GetAddress(), id: id}, nil
}

// seen marks a node as connected or as gone.
func (d *directory) seen(node string, connected bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if connected && d.resting {
		d.touch()
	}
	p := d.nodes[node]
	switch {
	case p == nil:
	case connected:
		p.gone = time.Time{}
	default:
		p.gone = d.now()
		d.touch()
	}
}

// forget drops what a node reported, at once.
func (d *directory) forget(node string) {
	d.mu.Lock()
	delete(d.nodes, node)
	d.mu.Unlock()
	d.touch()
}

// count is how many endpoints a node has reported.
func (d *directory) count(node string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.nodes[node]; p != nil {
		return len(p.endpoints)
	}
	return 0
}

// touch asks for a build.
func (d *directory) touch() {
	select {
	case d.dirty <- struct{}{}:
	default:
	}
}

// run builds and publishes the directory whenever something it depends on has
// changed, until ctx ends. publish gets only what differs from the former; while
// nobody is connected it gets nil once, and nothing is built.
func (d *directory) run(ctx context.Context, snap func() *snapshot, connected func() int, publish func(*api.Frame) time.Duration) error {
	var last [sha256.Size]byte
	var version uint64
	published, pause := false, time.Duration(0)
	for {
		now := d.now()
		if d.rest(connected) {
			if published {
				publish(nil)
				published = false
			}
			if !d.sleep(ctx, now, time.Time{}, 0) {
				return nil
			}
			continue
		}
		partial := now.Before(d.started.Add(settleTime))
		entries, next := d.build(snap(), now)
		message := &pb.Directory{Partial: partial, Entries: entries}
		text, err := (proto.MarshalOptions{Deterministic: true}).Marshal(message)
		if err != nil {
			return fmt.Errorf("marshal directory: %w", err)
		}
		if sum := sha256.Sum256(text); !published || sum != last {
			last, published = sum, true
			version++
			message.Version = version
			frame, err := api.NewFrame(&pb.SyncResponse{Message: &pb.SyncResponse_Directory{Directory: message}})
			if err != nil {
				return err
			}
			pause = publish(frame)
		}
		if partial {
			next = earlier(next, d.started.Add(settleTime))
		}
		if !d.sleep(ctx, now, next, pause) {
			return nil
		}
		pause = 0
	}
}

// rest says whether there is nobody to build the directory for.
func (d *directory) rest(connected func() int) bool {
	d.mu.Lock()
	d.resting = true // before the look, so that no connection falls in between
	d.mu.Unlock()
	resting := connected() == 0
	d.mu.Lock()
	defer d.mu.Unlock()
	d.resting = resting
	return resting
}

// sleep waits for something to do, and gathers what comes within the pause.
func (d *directory) sleep(ctx context.Context, now, next time.Time, pause time.Duration) bool {
	hold := time.NewTimer(pause)
	defer hold.Stop()
	select {
	case <-hold.C:
	case <-ctx.Done():
		return false
	}
	var timer <-chan time.Time
	if !next.IsZero() {
		t := time.NewTimer(max(next.Sub(now)-pause, time.Millisecond))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-d.dirty:
	case <-timer:
	case <-ctx.Done():
		return false
	}
	return true
}

// build is the directory of a snapshot, and when it changes by itself.
func (d *directory) build(snap *snapshot, now time.Time) (entries []*pb.DirectoryEntry, next time.Time) {
	byService := make(map[string][]*pb.Endpoint)
	d.mu.Lock()
	for name, p := range d.nodes {
		if !p.gone.IsZero() {
			end := p.gone.Add(endpointGrace)
			if !now.Before(end) {
				delete(d.nodes, name)
				continue
			}
			next = earlier(next, end)
		}
		d.place(snap, name, p, byService)
	}
	d.mu.Unlock()
	for _, name := range snap.policy.ServiceNames() {
		s, _ := snap.policy.Service(name)
		entry := &pb.DirectoryEntry{Service: name, Protocol: s.Protocol.String(), Identities: snap.identitiesOf(name)}
		if s.Proof.Via != "" {
			entry.Proof = s.Proof.PB()
		}
		for _, address := range s.Endpoints {
			entry.Endpoints = append(entry.Endpoints, &pb.Endpoint{Address: address})
		}
		entry.Endpoints = append(entry.Endpoints, byService[name]...)
		slices.SortFunc(entry.Endpoints, func(a, b *pb.Endpoint) int {
			return cmp.Or(strings.Compare(a.GetAddress(), b.GetAddress()), strings.Compare(a.GetNode(), b.GetNode()))
		})
		entries = append(entries, entry)
	}
	return entries, next
}

// place adds the endpoints of a node that it may report: of an identity that
// belongs to the service and that the node itself could obtain.
func (d *directory) place(snap *snapshot, name string, p *presence, into map[string][]*pb.Endpoint) {
	member, ok := snap.members[name]
	refused := 0
	for _, e := range p.endpoints {
		if !ok || !snap.answersFor(e.id, e.service) || !mintable(snap.reach, member.node, e.id.Path()) {
			refused++
			continue
		}
		into[e.service] = append(into[e.service], &pb.Endpoint{Address: e.address, Node: name, SpiffeId: e.id.String()})
	}
	if refused != p.refused && refused > 0 {
		d.log.Warn("endpoints refused: their identity is not the service's, or not one this node can have", "node", name, "count", refused)
	}
	p.refused = refused
}

// pushPause is how long the next push must wait after one of this size.
func pushPause(size, streams int) time.Duration {
	return directoryGap + time.Duration(int64(size)*int64(streams)*int64(time.Second)/directoryBytes)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
