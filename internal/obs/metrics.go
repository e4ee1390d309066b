package obs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kith-id/kith/internal/fault"
)

// NewRegistry returns a metrics registry that already has the Go runtime's, the
// process's and the build's own metrics. Programs register their rooms' metrics
// with it; there is no global one.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	v := BuildVersion()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "kith_build_info",
		Help:        "1; the labels say which build runs.",
		ConstLabels: prometheus.Labels{"version": v.Version, "commit": v.Commit, "go": v.Go},
	})
	build.Set(1)
	r.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
	)
	return r
}

// MetricsConfig is what a metrics server needs.
type MetricsConfig struct {
	// Address is host:port, loopback unless the operator says otherwise. Port 0
	// takes a free one.
	Address string
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Health answers /healthz: nil is 200, an error 503 with its text. It must
	// not block. A nil Health is always well.
	Health func() error
	// Log gets the server's own errors.
	Log *slog.Logger
}

// Metrics serves GET /metrics and GET /healthz over plain HTTP and nothing else.
type Metrics struct {
	listener net.Listener
	server   *http.Server
}

// NewMetrics listens at once, so that a taken port is an error at start and not
// a line in the log.
func NewMetrics(cfg MetricsConfig) (*Metrics, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		err = fmt.Errorf("listen for metrics: %w", err)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fault.Hint(fault.Wrap(fault.Conflict, err), "another process has the port: name a free one, or turn metrics off with metrics: \"\"")
		}
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if cfg.Health != nil {
			if err := cfg.Health(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	return &Metrics{listener: l, server: &http.Server{
		Handler:           mux,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}}, nil
}

// Addr is where it listens, with the port it really got.
func (m *Metrics) Addr() string { return m.listener.Addr().String() }

// Run serves until ctx ends, then lets scrapes in flight end within a second.
func (m *Metrics) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- m.server.Serve(m.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve metrics: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := m.server.Shutdown(limit); err != nil {
		m.server.Close() // a scraper that will not leave is cut
	}
	<-served
	return nil
}

// Close frees the port of a Metrics that was never run.
func (m *Metrics) Close() error { return m.listener.Close() }
