package workload

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what this package counts.
type Metrics struct {
	signed  *prometheus.CounterVec
	streams prometheus.Gauge
	denied  prometheus.Counter

	secretStreams prometheus.Gauge
	secrets       *prometheus.CounterVec
}

// NewMetrics returns metrics that the program registers.
func NewMetrics() *Metrics {
	return &Metrics{
		signed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_svid_requests_total",
			Help: "Workload SVIDs asked of the server, by result.",
		}, []string{"result"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kith_agent_workload_streams",
			Help: "Open streams of the SPIFFE Workload API.",
		}),
		denied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kith_agent_workload_denied_total",
			Help: "Calls of the SPIFFE Workload API and of Envoy's SDS by processes without an identity.",
		}),
		secretStreams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kith_agent_sds_streams",
			Help: "Open streams of Envoy's secret discovery service.",
		}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_sds_responses_total",
			Help: "Responses of Envoy's secret discovery service: sent, accepted or refused.",
		}, []string{"result"}),
	}
}

// Collectors is everything to register.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.signed, m.streams, m.denied, m.secretStreams, m.secrets}
}
