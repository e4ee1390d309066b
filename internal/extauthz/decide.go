package extauthz

import (
	"crypto/rand"
	"crypto/sha256"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxText  = 512
	maxShort = 64
	maxFlows = 512 // whose allows are reported in one second
)

// Question is one request or connection as a proxy tells of it. The zero
// Question is denied.
type Question struct {
	// Service is the destination; "" where the process has only one.
	Service string
	// From is the peer that the proxy has authenticated. Nobody is Anonymous
	// because From is zero: that must be said.
	From      spiffe.ID
	Anonymous bool
	// Leaf is the hash of the peer's leaf certificate, nil if it is not known.
	Leaf *[sha256.Size]byte
	// Target is the request target as the proxy will forward it, query and all.
	Target string
	// Request is all else; its Path is taken from Target.
	Request policy.Request
}

// Answer is what was decided.
type Answer struct {
	policy.Decision

	// ID names the decision for `kith why`. Every denial has one, and every allow
	// that was reported.
	ID      string
	Service string
	From    spiffe.ID
	// Fault is why there was nothing to decide by, or nothing to decide; for the log
	// and for the process that asks.
	Fault error
}

// Allowed says that the request may be forwarded.
func (a Answer) Allowed() bool { return a.Effect == policy.Allow }

// Malformed says that the request was refused for its form.
func (a Answer) Malformed() bool { return a.Reason == policy.PathNotCanonical }

// WantsToken says that a rule would allow the request with a good user token: the
// one denial whose reason callers get to know, as they must get a token by it.
func (a Answer) WantsToken() bool {
	return !a.Allowed() && (a.Reason == policy.TokenMissing || a.Reason == policy.TokenInvalid)
}

// challenge is the WWW-Authenticate of such a denial (RFC 6750 3).
func (a Answer) challenge() string {
	if a.Reason == policy.TokenInvalid {
		return `Bearer error="invalid_token"`
	}
	return "Bearer"
}

// Decide answers a question. What is decided is what the proxy forwards, and that
// is out of our hands: a path that is not in its normal form is denied.
func (p *Point) Decide(q Question) Answer {
	ruling, began := p.ruling.Load(), p.cfg.Now()
	answer := Answer{From: q.From, Decision: policy.Decision{Revision: ruling.revision}}
	table, err := ruling.table(q.Service, p.cfg.As)
	if err == nil && p.cfg.Stale() {
		err = fault.Conflictf("this node has been without its server for longer than an identity lives")
	}
	if err != nil {
		answer.Fault = err
		p.record(&answer, &q, about{ruling: ruling, began: began})
		return answer
	}
	answer.Service = table.Service()
	var peer policy.Peer
	switch {
	case !q.From.IsZero():
		peer = table.Peer(q.From)
	case q.Anonymous:
		peer = table.Anonymous()
	}
	answer.Decision = p.judge(ruling, table, peer, &q)
	answer.Revision = ruling.revision // the table may be of before
	if answer.Denies() && answer.Reason == policy.NoPolicy {
		answer.Reason = policy.NoSource // a peer that is nobody
	}
	p.record(&answer, &q, about{ruling, table, peer, began})
	p.count(&answer, &q)
	return answer
}

// count counts a request. One that was refused for its form is not counted, which
// no rule changes.
func (p *Point) count(a *Answer, q *Question) {
	if a.Malformed() || len(q.Request.Path) > maxText || len(q.Request.Method) > maxShort {
		return
	}
	now := p.cfg.Now().Unix()
	flow := policy.Flow{
		From: a.From, To: a.Service, Protocol: q.Request.Protocol, Method: q.Request.Method, Template: q.Request.Path, Port: q.Request.Port,
		Rule: a.Rule, Reason: a.Reason, Effect: a.Effect, Count: 1, First: now, Last: now,
	}
	if flow.Protocol != policy.TCP {
		flow.Samples = []string{q.Request.Path}
	}
	if flow.Protocol == policy.HTTP {
		flow.Template = string(policy.AppendTemplate(nil, q.Request.Path))
	}
	p.cfg.Count(flow)
}

func (p *Point) judge(ruling *ruling, table *policy.Table, peer policy.Peer, q *Question) policy.Decision {
	if q.Request.Protocol != policy.TCP {
		path, query, _ := strings.Cut(q.Target, "?")
		normal, err := policy.NormalizePath(path, table.Paths())
		q.Request.Path = path
		if err != nil || normal != path {
			return table.Refuse(policy.PathNotCanonical)
		}
		if facts := q.Request.Facts; facts != nil {
			facts.Query = query
			facts.Token = &userToken{usertoken.Once{
				Checker: ruling.tokens[table.Service()], Leaf: q.Leaf, Now: p.cfg.Now(), Missing: p.cfg.Missing,
				Carrier: usertoken.Carrier{Headers: facts.Headers, Query: query},
			}}
		}
	}
	return agreed(table, q.Request, table.Decide(peer, respelt(table, q.Request)))
}

// respelt is a request whose header fields are as conditions read them.
func respelt(table *policy.Table, r policy.Request) policy.Request {
	if all := allOf(r.Facts); all != nil && table.Reads()&policy.ReadsHeaders != 0 {
		facts := *r.Facts
		facts.Headers = policy.HeadersOf(all)
		r.Facts = &facts
	}
	return r
}

// allOf are all header fields of a request, nil if none are known.
func allOf(facts *policy.Facts) map[string][]string {
	if facts == nil {
		return nil
	}
	switch h := facts.Headers.(type) {
	case policy.Fields:
		return h
	case fields:
		return h
	}
	return nil
}

// agreed denies what an external decision has to agree to: it is asked by
// enforcement points that forward requests, and this one does not.
func agreed(table *policy.Table, r policy.Request, d policy.Decision) policy.Decision {
	if d.Denies() {
		return d
	}
	for i, e := range table.Externals() {
		if !table.Asks(i, r) {
			continue
		}
		denied := table.Refuse(policy.ExternalDeny)
		denied.Near = policy.NearMiss{
			Rule: d.Rule, Field: policy.FieldExternal, Want: "agreement of " + e.Name,
			Got: "external decisions are asked by kith proxy and the SDK, not for proxies that ask the agent",
		}
		if table.Observed() {
			denied.Effect, denied.Observed = policy.Allow, true
		}
		return denied
	}
	return d
}

// about is what a decision was made by.
type about struct {
	ruling *ruling
	table  *policy.Table // nil if there was none to decide by
	peer   policy.Peer
	began  time.Time
}

// record reports every denial, of each flow the first allow of a second, and the
// allows that the decision log picks.
func (p *Point) record(a *Answer, q *Question, by about) {
	now := p.cfg.Now()
	from := a.From.String()
	logged := !a.Denies() && by.ruling.recording.Picks(rand32())
	if !a.Denies() && !logged && !p.sample.take(flow{from, a.Rule, clip(q.Request.Method, maxShort)}, now.Unix()) {
		return
	}
	a.ID = newID()
	d := a.Decision
	if by.table != nil && d.Denies() && d.Reason != policy.PathNotCanonical && d.Reason != policy.ExternalDeny {
		d.Near = by.table.Explain(by.peer, respelt(by.table, q.Request)).Near
		a.Near = d.Near
	}
	m := d.PB()
	m.Id, m.TimeUnixNano, m.From, m.To = a.ID, now.UnixNano(), from, a.Service
	m.Logged, m.DurationNanos = logged, max(now.Sub(by.began).Nanoseconds(), 0)
	m.Protocol, m.Method, m.Path = q.Request.Protocol.String(), clip(q.Request.Method, maxShort), clip(q.Request.Path, maxText)
	m.Host, m.Port = clip(q.Request.Host, maxText), uint32(q.Request.Port)
	m.NearWant, m.NearGot = clip(m.NearWant, maxText), clip(m.NearGot, maxText)
	note(m, q, by.ruling)
	p.cfg.Report(m)
}

// note adds what the decision log keeps of the request.
func note(m *pb.Decision, q *Question, ruling *ruling) {
	facts := q.Request.Facts
	if ruling.recording == nil || facts == nil {
		return
	}
	var claims map[string]any
	if facts.Token != nil && ruling.recording.ReadsClaims() {
		claims, _ = facts.Token.Claims()
	}
	_, query, _ := strings.Cut(q.Target, "?")
	ruling.recording.Note(m, facts.Headers, allOf(facts), query, claims)
}

// sample picks the allows that are reported.
type sample struct {
	mu     sync.Mutex
	second int64             // guarded by mu
	flows  map[flow]struct{} // reported in this second; guarded by mu
}

type flow struct{ from, rule, method string }

func (s *sample) take(f flow, second int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.second != second || s.flows == nil {
		s.second, s.flows = second, make(map[flow]struct{})
	}
	if _, done := s.flows[f]; done || len(s.flows) >= maxFlows {
		return false
	}
	s.flows[f] = struct{}{}
	return true
}

// rand32 picks allows for the decision log.
func rand32() uint32 { return mathrand.Uint32() }

// newID is 80 random bits as 16 characters of a-z and 2-7.
func newID() string { return strings.ToLower(rand.Text()[:16]) }

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
