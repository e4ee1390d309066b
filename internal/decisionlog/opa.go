package decisionlog

import (
	"encoding/json"
	"strconv"
	"time"
)

// opaLine is an entry as OPA's decision logs have it: what reads those reads these.
func opaLine(e *entry) ([]byte, error) {
	type request struct {
		Protocol string            `json:"protocol"`
		Method   string            `json:"method,omitempty"`
		Path     string            `json:"path,omitempty"`
		Host     string            `json:"host,omitempty"`
		Port     uint32            `json:"port,omitempty"`
		Headers  map[string]string `json:"headers,omitempty"`
		Query    map[string]string `json:"query,omitempty"`
	}
	type principal struct {
		Service   string `json:"service,omitempty"`
		Principal string `json:"principal,omitempty"`
	}
	type input struct {
		Source      principal         `json:"source"`
		Destination principal         `json:"destination"`
		Request     request           `json:"request"`
		Claims      map[string]string `json:"claims,omitempty"`
	}
	type result struct {
		Allow  bool    `json:"allow"`
		Rule   string  `json:"rule,omitempty"`
		Reason string  `json:"reason"`
		Mode   string  `json:"mode"`
		Shadow *shadow `json:"shadow,omitempty"`
	}
	type bundle struct {
		Revision string `json:"revision"`
	}
	return json.Marshal(struct {
		Type      string            `json:"type"`
		ID        string            `json:"decision_id"`
		Timestamp string            `json:"timestamp"`
		Labels    map[string]string `json:"labels"`
		Path      string            `json:"path"`
		Bundles   map[string]bundle `json:"bundles"`
		Input     input             `json:"input"`
		Result    result            `json:"result"`
		Masked    []string          `json:"masked,omitempty"`
		Metrics   map[string]int64  `json:"metrics"`
	}{
		"openpolicyagent.org/decision_logs", e.id, e.time.Format(time.RFC3339Nano),
		map[string]string{"app": "kith", "version": e.version, "node": e.node, "id": e.toID},
		"kith/allow",
		map[string]bundle{"kith": {strconv.FormatUint(e.revision, 10)}},
		input{
			principal{Principal: e.from},
			principal{e.to, e.toID},
			request{e.protocol, e.method, e.path, e.host, e.port, e.headers, e.query},
			e.claims,
		},
		result{e.allowed(), e.rule, e.reason, e.mode, e.shadow},
		e.masked(),
		map[string]int64{"timer_server_handler_ns": e.took.Nanoseconds()},
	})
}
