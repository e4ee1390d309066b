package ca

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// refusal is why nothing was issued: a closed set, fit for a label.
type refusal string

const (
	refusedInvalid  refusal = "invalid"
	refusedClock    refusal = "clock"
	refusedIssuer   refusal = "issuer"
	refusedJournal  refusal = "journal"
	refusedLint     refusal = "lint"
	refusedInternal refusal = "internal"
)

// refused is an error that knows why.
type refused struct {
	error
	reason refusal
}

func (r refused) Unwrap() error { return r.error }

// refuse counts a refusal and marks its error.
func (c *CA) refuse(reason refusal, err error) error {
	c.metrics.refused.WithLabelValues(string(reason)).Inc()
	return refused{err, reason}
}

func refusedBy(err error) refusal {
	var r refused
	if errors.As(err, &r) {
		return r.reason
	}
	return refusedInternal
}

// metrics are made with the CA and registered where the caller says.
type metrics struct {
	registerer   prometheus.Registerer
	collectors   []prometheus.Collector // those that are registered
	issued       prometheus.Counter
	jwtIssued    prometheus.Counter
	witIssued    prometheus.Counter
	refused      *prometheus.CounterVec
	seconds      prometheus.Histogram
	shipFailures prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, c *CA) (*metrics, error) {
	m := &metrics{
		registerer:   registerer,
		issued:       prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_ca_issued_total", Help: "X.509-SVIDs signed and released."}),
		jwtIssued:    prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_ca_jwt_issued_total", Help: "JWT-SVIDs signed and released."}),
		witIssued:    prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_ca_wit_issued_total", Help: "WIT-SVIDs signed and released."}),
		refused:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kith_ca_refused_total", Help: "Requests that were not signed, by reason."}, []string{"reason"}),
		shipFailures: prometheus.NewCounter(prometheus.CounterOpts{Name: "kith_ca_journal_ship_failures_total", Help: "Failed attempts to ship the journal to the audit log."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kith_ca_sign_seconds", Help: "Time to sign one batch, journal included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}),
	}
	for _, reason := range []refusal{refusedInvalid, refusedClock, refusedIssuer, refusedJournal, refusedLint, refusedInternal} {
		m.refused.WithLabelValues(string(reason))
	}
	if registerer == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	for _, collector := range []prometheus.Collector{
		m.issued, m.jwtIssued, m.witIssued, m.refused, m.seconds, m.shipFailures,
		gauge("kith_ca_journal_used_ratio", "Share of the journal that waits to be shipped; at 1 nothing is issued.", c.journal.share),
		gauge("kith_ca_issuing_expires_timestamp_seconds", "When the issuing CA expires.", func() float64 {
			if current := c.current.Load(); current != nil {
				return unix(current.cert.NotAfter)
			}
			return 0
		}),
		gauge("kith_ca_root_expires_timestamp_seconds", "When the root expires.", func() float64 { return unix(c.root.cert.NotAfter) }),
	} {
		if err := registerer.Register(collector); err != nil {
			m.unregister()
			return nil, fmt.Errorf("register metrics: %w", err)
		}
		m.collectors = append(m.collectors, collector)
	}
	return m, nil
}

func (m *metrics) unregister() {
	for _, collector := range m.collectors {
		m.registerer.Unregister(collector)
	}
}

func unix(t time.Time) float64 { return float64(t.Unix()) }
