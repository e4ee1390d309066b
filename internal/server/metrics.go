package server

import (
	"github.com/prometheus/client_golang/prometheus"
)

// serverMetrics are the server's own; the CA has its own as well.
type serverMetrics struct {
	revision    prometheus.Gauge
	admitted    prometheus.Counter
	refused     prometheus.Counter
	propagation prometheus.Histogram
}

func newMetrics(r *prometheus.Registry, s *Server) *serverMetrics {
	m := &serverMetrics{
		revision: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kith_server_revision", Help: "Newest revision of applied state in memory."}),
		admitted: prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_server_nodes_admitted_total", Help: "Attestations that admitted a node."}),
		refused:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_server_nodes_refused_total", Help: "Attestations that were refused."}),
		propagation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kith_server_propagation_seconds", Help: "From a change's request to the last node's ack, or to giving up.",
			Buckets: prometheus.ExponentialBuckets(0.002, 2, 14),
		}),
	}
	r.MustRegister(
		m.revision, m.admitted, m.refused, m.propagation,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_server_nodes", Help: "Known nodes."},
			func() float64 { return float64(len(s.snap().members)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_server_nodes_connected", Help: "Nodes with a sync stream."},
			func() float64 { return float64(s.hub.connected()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_server_store_staleness_seconds", Help: "How long ago the store last answered."},
			func() float64 { return s.staleness().Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_server_store_writable", Help: "1 if changes can be made."},
			func() float64 {
				if s.writable() != nil {
					return 0
				}
				return 1
			}),
	)
	m.revision.Set(float64(s.hub.snap.revision))
	return m
}
