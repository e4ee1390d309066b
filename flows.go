package kith

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxFlows      = 2048 // flows counted at once by one program
	maxFlowPath   = 512  // bytes of a path that is counted
	maxFlowMethod = 32
	flowBatch     = 256 // flows in one message
	// flowPause is from the first count to its report: long enough that a busy
	// program sends one small message a second, short for a person who waits.
	flowPause = time.Second
	// flowIdle is after how long without a request a flow makes room.
	flowIdle = 10 * time.Minute
)

// flows counts what is decided, allowed or not, for replays of proposed rules.
// It never blocks a request for longer than a map takes, and what fits no bound
// is counted as uncounted.
type flows struct {
	changed   chan struct{} // capacity 1: there is something to report
	uncounted atomic.Uint64

	mu    sync.Mutex
	all   map[flowKey]*flowCount // guarded by mu
	dirty bool                   // changed was told; guarded by mu
	told  uint64                 // uncounted, as reported; guarded by mu
}

type flowKey struct {
	from             spiffe.ID
	method, template string
	rule             string
	reason           policy.Reason
	effect           policy.Effect
	protocol         policy.Protocol
	port             uint16
}

type flowCount struct {
	count, last atomic.Int64
	gone        atomic.Bool // made room; who still holds it looks it up again
	first       int64
	sent        int64    // count, as reported; guarded by flows.mu
	samples     []string // guarded by flows.mu
}

// flowHit is the flow of a connection's latest request, which is most often
// that of its next one too.
type flowHit struct {
	method, path, rule string
	reason             policy.Reason
	effect             policy.Effect
	count              *flowCount
}

func (f *flows) init() {
	f.changed = make(chan struct{}, 1)
	f.all = make(map[flowKey]*flowCount)
}

// record counts one decision. Path is in normal form; a request without one was
// refused for its form, which no rule changes.
func (f *flows) record(peer *Peer, request *Request, path string, verdict *policy.Decision, now time.Time) {
	protocol := wireProtocol(request.Protocol)
	if protocol == 0 || protocol != policy.TCP && path == "" || verdict.Reason == policy.NoPolicy {
		return
	}
	second := now.Unix()
	if hit := peer.flow.Load(); hit != nil && hit.path == path && hit.method == request.Method &&
		hit.rule == verdict.Rule && hit.reason == verdict.Reason && hit.effect == verdict.Effect && !hit.count.gone.Load() {
		hit.count.count.Add(1)
		if hit.count.last.Swap(second) != second {
			f.touch()
		}
		return
	}
	if len(path) > maxFlowPath || len(request.Method) > maxFlowMethod {
		f.uncounted.Add(1)
		return
	}
	if protocol == policy.HTTP && request.GRPC {
		protocol = policy.GRPC
	}
	if count := f.find(peer.id, request, protocol, path, verdict, second); count != nil {
		peer.flow.Store(&flowHit{method: request.Method, path: path, rule: verdict.Rule, reason: verdict.Reason, effect: verdict.Effect, count: count})
	}
}

// find counts in the map, making a flow on its first request.
func (f *flows) find(from spiffe.ID, request *Request, protocol policy.Protocol, path string, verdict *policy.Decision, second int64) *flowCount {
	var buf [2 * maxFlowPath]byte
	template := append(buf[:0], path...)
	if protocol != policy.GRPC {
		template = policy.AppendTemplate(buf[:0], path)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	count := f.all[flowKey{from, request.Method, string(template), verdict.Rule, verdict.Reason, verdict.Effect, protocol, request.Port}]
	if count == nil {
		if len(f.all) >= maxFlows {
			f.uncounted.Add(1)
			return nil
		}
		key := flowKey{from, request.Method, string(template), verdict.Rule, verdict.Reason, verdict.Effect, protocol, request.Port}
		count = &flowCount{first: second}
		f.all[key] = count
	}
	if protocol != policy.TCP && len(count.samples) < policy.MaxSamples && !slices.Contains(count.samples, path) {
		count.samples = append(count.samples, path)
	}
	count.count.Add(1)
	count.last.Store(second)
	f.tell()
	return count
}

func (f *flows) touch() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tell()
}

// tell wakes the sender once; f.mu is held.
func (f *flows) tell() {
	if f.dirty {
		return
	}
	f.dirty = true
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// take is what was counted since the last time, in messages of bounded size.
// Flows that nobody has asked for a while make room.
func (f *flows) take(service string, now time.Time) []*pb.FlowReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dirty = false
	var out []*pb.FlowReport
	batch := &pb.FlowReport{}
	if uncounted := f.uncounted.Load(); uncounted != f.told {
		batch.Uncounted, f.told = uncounted-f.told, uncounted
	}
	for key, c := range f.all {
		count := c.count.Load()
		if count == c.sent {
			if now.Unix()-c.last.Load() > int64(flowIdle/time.Second) {
				c.gone.Store(true)
				delete(f.all, key)
			}
			continue
		}
		if len(batch.Flows) == flowBatch {
			out, batch = append(out, batch), &pb.FlowReport{}
		}
		batch.Flows = append(batch.Flows, c.report(key, service, count-c.sent))
		c.sent = count
	}
	if len(batch.Flows) > 0 || batch.Uncounted > 0 {
		out = append(out, batch)
	}
	return out
}

// sendFlows reports what was counted. What a broken stream swallows is lost:
// these are counts to judge rules by, not a record.
func (w *Workload) sendFlows(stream enforceStream) error {
	for _, report := range w.flows.take(w.Service(), w.cfg.Now()) {
		if err := stream.Send(&pb.EnforceRequest{Message: &pb.EnforceRequest_Flows{Flows: report}}); err != nil {
			return err
		}
	}
	return nil
}

func (c *flowCount) report(key flowKey, service string, count int64) *pb.Flow {
	flow := policy.Flow{
		From: key.from, To: service, Protocol: key.protocol, Method: key.method, Template: key.template, Port: key.port,
		Rule: key.rule, Reason: key.reason, Effect: key.effect, Count: uint64(count), First: c.first, Last: c.last.Load(),
		Samples: append([]string(nil), c.samples...),
	}
	return flow.PB()
}
