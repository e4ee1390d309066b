package agent

import (
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kith-id/kith/internal/workload"
)

// metrics is what an agent measures. Labels come from closed sets only.
type metrics struct {
	workload  *workload.Metrics
	broker    *workload.BrokerMetrics
	revision  prometheus.Gauge
	skew      prometheus.Gauge
	decisions *prometheus.CounterVec

	registered []prometheus.Collector
}

func newMetrics() *metrics {
	return &metrics{
		workload: workload.NewMetrics(),
		broker:   workload.NewBrokerMetrics(),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kith_agent_revision", Help: "Revision of the state this agent holds.",
		}),
		skew: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kith_agent_clock_skew_seconds", Help: "The server's clock minus this host's.",
		}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_agent_decisions_total", Help: "Decisions reported by enforcement points.",
		}, []string{"effect"}),
	}
}

func (m *metrics) decision(effect string) {
	if effect != "allow" {
		effect = "deny"
	}
	m.decisions.WithLabelValues(effect).Inc()
}

func (m *metrics) register(a *Agent, r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	all := append(slices.Concat(m.workload.Collectors(), m.broker.Collectors(), a.keys.Collectors(), a.decisionLog.Collectors(), a.questions.Collectors()), m.revision, m.skew, m.decisions,
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "kith_agent_callers_refused_total", Help: "Connections to the agent's sockets that were closed before a word.",
		}, func() float64 { return float64(a.refusals.count.Load()) }),
		gauge("kith_agent_connected", "1 while the sync stream to the server is up.", func() float64 {
			if connected, _, _, _ := a.contact.get(); connected {
				return 1
			}
			return 0
		}),
		gauge("kith_agent_svids", "Workload SVIDs in use.", func() float64 {
			n, _ := a.identities.Count()
			return float64(n)
		}),
		gauge("kith_agent_enforcement_points", "Attached enforcement points.", func() float64 {
			return float64(a.points.count())
		}),
		gauge("kith_agent_outage_budget_seconds", "Until the first SVID ends without the server.", func() float64 {
			return a.outageBudget().Seconds()
		}),
		gauge("kith_agent_node_svid_expires_seconds", "Unix time at which the node's own SVID ends.", func() float64 {
			if at := a.standing.Load(); at.admitted() {
				return float64(at.svid.Expiry().Unix())
			}
			return 0
		}))
	for _, c := range all {
		if err := r.Register(c); err != nil {
			m.unregister(r)
			return fmt.Errorf("register metrics: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	for _, c := range m.registered {
		r.Unregister(c)
	}
	m.registered = nil
}
