package agent

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

const (
	maxNodeFlows     = 16384   // kept by one node
	maxReportedFlows = 1024    // in one report
	maxToldSize      = 2 << 20 // bytes of one answer: a message holds 4 MiB
	maxFlowText      = 512
)

// flowTable is what was asked of this node's services, counted. When it is full
// the flow that was seen longest ago makes room, so what is going on now is
// always there.
type flowTable struct {
	mu        sync.Mutex
	all       map[flowKey]*policy.Flow // guarded by mu
	uncounted uint64                   // guarded by mu
}

type flowKey struct {
	from, to, method, template, rule string
	reason                           policy.Reason
	effect                           policy.Effect
	protocol                         policy.Protocol
	port                             uint16
}

// add merges what one enforcement point of service to counted.
func (t *flowTable) add(to string, report *pb.FlowReport) {
	flows := report.GetFlows()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.uncounted += report.GetUncounted()
	for _, m := range flows[:min(len(flows), maxReportedFlows)] {
		m.To = to
		f, err := policy.FlowFromPB(m)
		if err != nil || tooLong(f) {
			t.uncounted += m.GetCount()
			continue
		}
		t.merge(f)
	}
}

func tooLong(f policy.Flow) bool {
	return slices.ContainsFunc(append([]string{f.Method, f.Template, f.Rule}, f.Samples...), func(s string) bool {
		return len(s) > 3*maxFlowText
	})
}

// merge counts a flow; mu is held.
func (t *flowTable) merge(f policy.Flow) {
	from := ""
	if !f.From.IsZero() {
		from = f.From.String()
	}
	key := flowKey{from, f.To, f.Method, f.Template, f.Rule, f.Reason, f.Effect, f.Protocol, f.Port}
	if there := t.all[key]; there != nil {
		there.Add(f)
		return
	}
	if t.all == nil {
		t.all = make(map[flowKey]*policy.Flow)
	}
	if len(t.all) >= maxNodeFlows {
		t.makeRoom()
	}
	t.all[key] = &f
}

// makeRoom drops the eighth of the flows that was seen longest ago; mu is held.
func (t *flowTable) makeRoom() {
	last := make([]int64, 0, len(t.all))
	for _, f := range t.all {
		last = append(last, f.Last)
	}
	slices.Sort(last)
	edge, drop := last[len(last)/8], len(t.all)/8+1
	for key, f := range t.all {
		if f.Last <= edge && drop > 0 {
			delete(t.all, key)
			drop--
		}
	}
}

// answer is the flows to one service, or to all, the latest first.
func (t *flowTable) answer(q *pb.FlowQuery) *pb.FlowAnswer {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &pb.FlowAnswer{Query: q.GetQuery(), Uncounted: t.uncounted}
	var found []*policy.Flow
	for _, f := range t.all {
		if q.GetTo() == "" || q.GetTo() == f.To {
			found = append(found, f)
		}
	}
	slices.SortFunc(found, func(a, b *policy.Flow) int {
		return cmp.Or(cmp.Compare(b.Last, a.Last), strings.Compare(a.Template, b.Template))
	})
	size := 0
	for _, f := range found {
		m := f.PB()
		if size += proto.Size(m); size > maxToldSize {
			a.Uncounted += f.Count
			continue
		}
		a.Flows = append(a.Flows, m)
	}
	return a
}

// count is what a point of ours counted. A point speaks for the services its
// identity belongs to and for no other.
func (a *Agent) count(p *point, report *pb.FlowReport) {
	services := a.points.servicesOf(p)
	byService := make(map[string]*pb.FlowReport)
	for _, f := range report.GetFlows() {
		to := f.GetTo()
		switch {
		case slices.Contains(services, to):
		case len(services) == 1:
			to = services[0]
		default:
			continue
		}
		if byService[to] == nil {
			byService[to] = &pb.FlowReport{}
		}
		byService[to].Flows = append(byService[to].Flows, f)
	}
	for to, own := range byService {
		a.flows.add(to, own)
	}
	a.flows.add("", &pb.FlowReport{Uncounted: report.GetUncounted()})
}
