package proxy

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith"
)

// outcome is how a request ended, as metrics count it.
type outcome int

const (
	asAllowed outcome = iota
	asDenied
	asMalformed
	asError
)

// The outcomes are a closed set: no label comes from outside.
const (
	outcomeAllowed   = "allowed"
	outcomeDenied    = "denied"
	outcomeMalformed = "malformed"
	outcomeError     = "error" // allowed, but the other side was not reached or answered 5xx
)

// meter holds the proxy's metrics, and the spaces all copying shares.
type meter struct {
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	connections *prometheus.CounterVec
	live        *prometheus.GaugeVec
	all         []prometheus.Collector

	buffers *buffers
	sheets  *sheets
}

func newMeter(w *kith.Workload) *meter {
	const space, system = "kith", "proxy"
	m := &meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: space, Subsystem: system, Name: "requests_total",
			Help: "Requests and raw connections by direction, protocol and outcome.",
		}, []string{"direction", "protocol", "outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: space, Subsystem: system, Name: "request_seconds",
			Help:    "Time from the first byte of a request to the last of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"direction"}),
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: space, Subsystem: system, Name: "connections_total",
			Help: "Connections accepted, after the handshake where there is one.",
		}, []string{"direction"}),
		live: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: space, Subsystem: system, Name: "live",
			Help: "Requests and raw connections under way.",
		}, []string{"direction"}),
		buffers: newBuffers(),
		sheets:  newSheets(),
	}
	count := func(name, help string, value func(kith.Stats) uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Namespace: space, Subsystem: system, Name: name, Help: help}, func() float64 {
			if w == nil {
				return 0
			}
			return float64(value(w.Stats()))
		})
	}
	m.all = []prometheus.Collector{
		m.requests, m.seconds, m.connections, m.live,
		count("decisions_reported_total", "Decisions sent to the agent.", func(s kith.Stats) uint64 { return s.Reported }),
		count("decisions_dropped_total", "Decisions not sent because the queue was full.", func(s kith.Stats) uint64 { return s.Dropped }),
		count("cut_total", "Live exchanges ended by a change of policy.", func(s kith.Stats) uint64 { return s.Cut }),
		count("identities_total", "Identities received.", func(s kith.Stats) uint64 { return s.Rotations }),
	}
	return m
}

// Describe sends the descriptions of all metrics.
func (m *meter) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
}

// Collect sends all metrics.
func (m *meter) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
}

func (m *meter) accepted(direction string) { m.connections.WithLabelValues(direction).Inc() }

func (m *meter) decided(direction, protocol, outcome string) {
	m.requests.WithLabelValues(direction, protocol, outcome).Inc()
}

func (m *meter) enter(direction string) { m.live.WithLabelValues(direction).Inc() }

func (m *meter) leave(direction string) { m.live.WithLabelValues(direction).Dec() }

// tally counts and times the requests of one direction.
type tally struct {
	outcomes [4]prometheus.Counter
	live     prometheus.Gauge
	seconds  prometheus.Observer
}

func (m *meter) tally(direction string) *tally {
	t := &tally{live: m.live.WithLabelValues(direction), seconds: m.seconds.WithLabelValues(direction)}
	for i, outcome := range [...]string{asAllowed: outcomeAllowed, asDenied: outcomeDenied, asMalformed: outcomeMalformed, asError: outcomeError} {
		t.outcomes[i] = m.requests.WithLabelValues(direction, "http", outcome)
	}
	return t
}

func (t *tally) begin() time.Time {
	t.live.Inc()
	return time.Now()
}

func (t *tally) end(begun time.Time, with outcome) {
	t.live.Dec()
	t.seconds.Observe(time.Since(begun).Seconds())
	t.outcomes[with].Inc()
}

// measure counts and times the requests of a handler.
func (t *tally) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		begun := t.begin()
		watch := &statusWatch{ResponseWriter: rw}
		defer func() { t.end(begun, watch.outcome()) }()
		next.ServeHTTP(watch, r)
	})
}

// statusWatch remembers the status of an answer.
type statusWatch struct {
	http.ResponseWriter

	status atomic.Int32
}

// WriteHeader notes the final status.
func (s *statusWatch) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols {
		s.status.CompareAndSwap(0, int32(code))
	}
	s.ResponseWriter.WriteHeader(code)
}

// Unwrap lets a ResponseController find the rest.
func (s *statusWatch) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusWatch) outcome() outcome {
	return statusOutcome(int(s.status.Load()), s.Header().Get(kith.DecisionHeader) != "")
}

// statusOutcome is what a status means; decided says that the answer is a
// decision's and not the application's.
func statusOutcome(code int, decided bool) outcome {
	switch {
	case decided && code == http.StatusBadRequest:
		return asMalformed
	case decided:
		return asDenied
	case code >= http.StatusInternalServerError:
		return asError
	}
	return asAllowed
}
