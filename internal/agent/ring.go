package agent

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/kith-id/kith/internal/pb"
)

const (
	ringSize     = 4096
	maxReported  = 1024 // decisions in one report
	maxAnswer    = 1000
	maxFieldText = 1024
)

// ring keeps the latest decisions of this node's enforcement points.
type ring struct {
	mu   sync.Mutex
	all  []*pb.Decision // guarded by mu; grows to ringSize
	next int            // guarded by mu; where the next one goes once full
}

// add records a decision, its texts cut to a bounded length.
func (r *ring) add(d *pb.Decision) {
	d = proto.CloneOf(d)
	d.Headers, d.Query, d.Claims = nil, nil, nil // the decision log's alone
	for _, text := range []*string{
		&d.Id, &d.Effect, &d.Rule, &d.Reason, &d.NearRule, &d.NearField, &d.NearWant, &d.NearGot,
		&d.From, &d.To, &d.Protocol, &d.Method, &d.Path, &d.Host, &d.Node, &d.ToId, &d.Hint,
	} {
		if len(*text) > maxFieldText {
			*text = strings.ToValidUTF8((*text)[:maxFieldText], "") + "…"
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) < ringSize {
		r.all = append(r.all, d)
		return
	}
	r.all[r.next] = d
	r.next = (r.next + 1) % ringSize
}

// why is the decisions a query asks for, newest first.
func (a *Agent) why(q *pb.WhyQuery) []*pb.Decision {
	limit := int(min(q.GetLimit(), maxAnswer))
	if q.GetLast() || limit == 0 {
		limit = 1
	}
	out := append(a.decisions.answer(q, limit), a.logged.answer(q, limit)...)
	slices.SortStableFunc(out, func(x, y *pb.Decision) int { return cmp.Compare(y.GetTimeUnixNano(), x.GetTimeUnixNano()) })
	return out[:min(len(out), limit)]
}

// answer is the decisions a query asks for, newest first.
func (r *ring) answer(q *pb.WhyQuery, limit int) []*pb.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*pb.Decision
	for i := range r.all {
		// Newest first: backwards from the place before next.
		d := r.all[(r.next-1-i+2*len(r.all))%len(r.all)]
		switch {
		case q.GetId() != "" && d.GetId() != q.GetId():
			continue
		case q.GetDeniedOnly() && d.GetEffect() == "allow" && !d.GetObserved():
			continue
		}
		if out = append(out, d); len(out) >= limit {
			break
		}
	}
	return out
}
