package proxy

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith"
)

// The outcomes are a closed set: no label comes from outside.
const (
	outcomeAllowed   = "allowed"
	outcomeDenied    = "denied"
	outcomeMalformed = "malformed"
	outcomeError     = "error" // allowed, but the other side was not reached or answered 5xx
)

// meter holds the proxy's metrics, and the buffers all copying shares.
type meter struct {
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	connections *prometheus.CounterVec
	live        *prometheus.GaugeVec
	all         []prometheus.Collector

	buffers *buffers
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

// measure counts and times the requests of a handler.
func (m *meter) measure(direction string, next http.Handler) http.Handler {
	var outcomes [4]prometheus.Counter
	for i, outcome := range statusOutcomes() {
		outcomes[i] = m.requests.WithLabelValues(direction, "http", outcome)
	}
	live, seconds := m.live.WithLabelValues(direction), m.seconds.WithLabelValues(direction)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		live.Inc()
		watch := &statusWatch{ResponseWriter: rw}
		defer func() {
			live.Dec()
			seconds.Observe(time.Since(start).Seconds())
			outcomes[watch.outcome()].Inc()
		}()
		next.ServeHTTP(watch, r)
	})
}

// statusOutcomes are the outcomes a status can mean, by the index outcome gives.
func statusOutcomes() [4]string {
	return [...]string{outcomeAllowed, outcomeDenied, outcomeMalformed, outcomeError}
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

func (s *statusWatch) outcome() int {
	code := s.status.Load()
	switch decided := s.Header().Get(kith.DecisionHeader) != ""; {
	case decided && code == http.StatusBadRequest:
		return 2
	case decided:
		return 1
	case code >= http.StatusInternalServerError:
		return 3
	}
	return 0
}
