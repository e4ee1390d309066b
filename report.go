package kith

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

const (
	reportQueue    = 1024 // decisions that wait for the agent
	reportBatch    = 128
	sampledFlows   = 512 // flows whose allows are reported in one second
	maxReportText  = 512
	maxReportShort = 64
)

// reports carries decisions to the agent: every denial, and of each flow (peer,
// rule, method) the first allow of a second. It never blocks a request; what
// does not fit is counted and lost.
type reports struct {
	queue         chan *pb.Decision
	sent, dropped atomic.Uint64
	told          uint64 // of dropped, as reported; owned by the sender

	mu     sync.Mutex
	second int64             // guarded by mu
	flows  map[flow]struct{} // reported in this second; guarded by mu
}

type flow struct{ peer, rule, method string }

func (r *reports) init() {
	r.queue = make(chan *pb.Decision, reportQueue)
	r.flows = make(map[flow]struct{})
}

// sampled says whether this allow is reported. The common case, a busy
// connection, costs one atomic load.
func (r *reports) sampled(peer *Peer, rule, method string, now time.Time) bool {
	second := now.Unix()
	if peer.reported.Load() == second {
		return false
	}
	peer.reported.Store(second)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.second != second {
		r.second = second
		clear(r.flows)
	}
	key := flow{peer: peer.id.String(), rule: rule, method: clip(method, maxReportShort)}
	if _, done := r.flows[key]; done || len(r.flows) >= sampledFlows {
		return false
	}
	r.flows[key] = struct{}{}
	return true
}

// reported is what a report says besides the decision.
type reported struct {
	began  time.Time // deciding
	logged bool      // an allow that was picked for the decision log
}

// full says whether there is no room: allows leave half of it to denials.
func (r *reports) full(allowed bool) bool {
	room := cap(r.queue)
	if allowed {
		room /= 2
	}
	return len(r.queue) >= room
}

// report queues a decision.
func (w *Workload) report(peer *Peer, request *Request, d *Decision, verdict *policy.Decision, about reported) {
	if w.reports.full(d.Allowed && !d.Observed) {
		w.reports.dropped.Add(1) // before the near miss is searched for
		return
	}
	ruling := w.policy.Load()
	asked := request.asked()
	if d.Path != "" {
		asked.Path = d.Path
	}
	now := w.cfg.Now()
	message := verdict.PB()
	message.Id, message.TimeUnixNano = d.ID, now.UnixNano()
	message.Logged, message.DurationNanos = about.logged, max(now.Sub(about.began).Nanoseconds(), 0)
	message.To, message.ToId, message.Node = ruling.service, w.ID().String(), ruling.node
	message.Protocol, message.Port = asked.Protocol.String(), uint32(asked.Port)
	message.Method, message.Path = clip(asked.Method, maxReportShort), clip(asked.Path, maxReportText)
	message.Host = clip(asked.Host, maxReportText)
	if peer != nil {
		message.From = peer.id.String()
		near := verdict.Near
		if verdict.Denies() && ruling.table != nil && verdict.Reason != policy.PathNotCanonical && verdict.Reason != policy.OwnCheck && verdict.Reason != policy.ExternalDeny {
			near = w.explain(ruling, peer, request, asked, now)
		}
		message.NearRule, message.NearField = near.Rule, near.Field
		message.NearWant, message.NearGot = clip(near.Want, maxReportText), clip(near.Got, maxReportText)
	}
	w.note(ruling, peer, request, message, now)
	select {
	case w.reports.queue <- message:
	default:
		w.reports.dropped.Add(1)
	}
}

// note adds what the decision log keeps of the request.
func (w *Workload) note(ruling *ruling, peer *Peer, request *Request, message *pb.Decision, now time.Time) {
	if ruling.recording == nil {
		return
	}
	var claims map[string]any
	if peer != nil && ruling.tokens != nil && ruling.recording.ReadsClaims() {
		claims, _ = w.userToken(ruling, request, peer, now).Claims()
	}
	var all http.Header
	if ruling.recording.ReadsAllHeaders() {
		all, _ = allOf(request.Headers)
	}
	ruling.recording.Note(message, request.Headers, all, request.Query, claims)
}

// explain is the near miss of a denial, and what is wrong with a token that was
// refused.
func (w *Workload) explain(ruling *ruling, peer *Peer, request *Request, asked policy.Request, now time.Time) policy.NearMiss {
	facts := request.facts(ruling.table, peer, now)
	token := w.userToken(ruling, request, peer, now)
	facts.Token, asked.Facts = token, &facts
	near := ruling.table.Explain(peer.in(ruling.table), asked).Near
	if near.Field != policy.FieldWhen {
		return near
	}
	if _, err := token.Check(); err != nil {
		near.Got += ": " + err.Error()
	}
	return near
}

// batch gathers what is queued behind first.
func (r *reports) batch(first *pb.Decision) *pb.Report {
	decisions := []*pb.Decision{first}
	for len(decisions) < reportBatch {
		select {
		case next := <-r.queue:
			decisions = append(decisions, next)
			continue
		default:
		}
		break
	}
	r.sent.Add(uint64(len(decisions)))
	report := &pb.Report{Decisions: decisions}
	dropped := r.dropped.Load()
	report.Dropped, r.told = dropped-r.told, dropped
	return report
}

// clip bounds text from outside and makes it UTF-8, which protobuf demands.
func clip(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	if utf8.ValidString(text) {
		return text
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}
