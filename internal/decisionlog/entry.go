package decisionlog

import (
	"maps"
	"slices"
	"time"

	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
)

// entry is one decision as the log knows it. It is immutable.
type entry struct {
	id, effect, mode       string
	time                   time.Time
	took                   time.Duration
	from, to, toID, node   string
	protocol, method, host string
	path                   string
	template               bool // path is a template
	port                   uint32
	rule, reason           string
	revision               uint64
	nearRule, nearField    string // of a denial; never what was found there
	shadow                 *shadow
	headers, query, claims map[string]string
	version                string
}

// shadow is what rules in shadow mode would make of it.
type shadow struct {
	Effect string `json:"effect"`
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

// entry copies what it keeps: the message goes on to whoever asks why.
func (l *Log) entry(d *pb.Decision) *entry {
	e := &entry{
		id: d.GetId(), effect: d.GetEffect(), mode: "enforce",
		time: time.Unix(0, d.GetTimeUnixNano()).UTC(), took: time.Duration(d.GetDurationNanos()),
		from: d.GetFrom(), to: d.GetTo(), toID: d.GetToId(), node: d.GetNode(),
		protocol: d.GetProtocol(), method: d.GetMethod(), host: d.GetHost(), path: d.GetPath(), port: d.GetPort(),
		rule: d.GetRule(), reason: d.GetReason(), revision: d.GetRevision(),
		nearRule: d.GetNearRule(), nearField: d.GetNearField(),
		headers: maps.Clone(d.GetHeaders()), query: maps.Clone(d.GetQuery()), claims: maps.Clone(d.GetClaims()),
		version: l.cfg.Version,
	}
	if effect := d.GetShadowEffect(); effect != "" {
		e.mode, e.shadow = "shadow", &shadow{effect, d.GetShadowRule(), d.GetShadowReason()}
	}
	if d.GetObserved() {
		e.mode = "observe"
	}
	if l.cfg.Templates && d.GetReason() != policy.PathNotCanonical.String() && d.GetProtocol() == policy.HTTP.String() && e.path != "" {
		e.path, e.template = string(policy.AppendTemplate(nil, e.path)), true
	}
	if l.cfg.Templates && d.GetReason() == policy.PathNotCanonical.String() {
		e.path = "" // it has no normal form, and so no template
	}
	return e
}

// allowed says that the request went on.
func (e *entry) allowed() bool { return e.effect == "allow" }

// masked lists where a value is not shown, as JSON pointers.
func (e *entry) masked() []string {
	var out []string
	for prefix, values := range map[string]map[string]string{
		"/input/request/headers/": e.headers, "/input/request/query/": e.query, "/input/claims/": e.claims,
	} {
		for name, value := range values {
			if value == policy.Masked {
				out = append(out, prefix+name)
			}
		}
	}
	slices.Sort(out)
	return out
}
