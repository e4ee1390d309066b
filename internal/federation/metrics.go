package federation

import "github.com/prometheus/client_golang/prometheus"

// pollerMetrics are without names of trust domains: those are in kith status.
type pollerMetrics struct {
	fetches *prometheus.CounterVec
	changed prometheus.Counter
}

func newPollerMetrics(r prometheus.Registerer, p *Poller) *pollerMetrics {
	m := &pollerMetrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kith_federation_fetches_total", Help: "Fetches of other trust domains' bundles, by how they went.",
		}, []string{"result"}),
		changed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kith_federation_bundles_changed_total", Help: "Bundles of other trust domains that were new.",
		}),
	}
	if r == nil {
		return m
	}
	r.MustRegister(
		m.fetches, m.changed,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_federation_trust_domains", Help: "Trust domains there is a relationship with."},
			func() float64 { return float64(len(p.Reports())) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_federation_failing", Help: "Trust domains whose bundle was not fetched at the last attempt."},
			func() float64 {
				n := 0
				for _, report := range p.Reports() {
					if report.Err != nil {
						n++
					}
				}
				return float64(n)
			}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kith_federation_revoked", Help: "Trust domains whose bundle trusts nothing: alert on any."},
			func() float64 {
				n := 0
				for td := range p.Reports() {
					if held, ok := p.cfg.Held(td); ok && Revoked(held) {
						n++
					}
				}
				return float64(n)
			}),
	)
	return m
}
