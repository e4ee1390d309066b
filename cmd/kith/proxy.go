package main

import (
	"context"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/proxy"
	"github.com/kith-id/kith/internal/run"
)

// proxyVerb is the data plane by itself, for programs that something else starts.
func (a *app) proxyVerb() *cobra.Command {
	f := &proxyFlags{}
	var metrics string
	cmd := &cobra.Command{
		Use: "proxy", Short: "the data plane beside a program that something else starts", Args: atMost(0),
		Long: `Serve as the data plane of a program that is started by something else, such as
systemd. It does what kith run does, without a child: --expose lets callers in,
--outbound is the address for the program's proxy variables, --upstream a local
port that leads to a service, --decisions one that leads to the agent's
decisions.`,
		Example: `  kith proxy --as orders --expose 8443=8080
  kith proxy --as web --outbound 127.0.0.1:3128 --upstream postgres=127.0.0.1:5432`,
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.outbound, "outbound", "", "loopback address of the HTTP proxy for the program")
	cmd.Flags().UintSliceVar(&f.allowUIDs, "allow-uid", nil, "users besides root and our own who may use the local addresses")
	cmd.Flags().StringVar(&metrics, "metrics", "", "address of /metrics and /healthz")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.serveProxy(cmd.Context(), f, metrics) }
	return cmd
}

// serveProxy is kith proxy: attach, bind, serve until told to stop.
func (a *app) serveProxy(ctx context.Context, f *proxyFlags, metrics string) error {
	log, err := logTo(a.stderr, f.logLevel("info"), "")
	if err != nil {
		return err
	}
	cfg, err := f.config(a, log)
	if err != nil {
		return err
	}
	cfg.Outbound = f.outbound
	w, err := a.open(ctx, kith.Config{As: f.as, Serves: len(cfg.Expose)+len(cfg.Proven) > 0, Calls: true, Log: log})
	if err != nil {
		return err
	}
	defer w.Close()
	registry := obs.NewRegistry()
	cfg.Workload, cfg.Metrics = w, registry
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	parts := []run.Part{{Name: "proxy", Run: p.Run}}
	if metrics != "" {
		m, err := obs.NewMetrics(obs.MetricsConfig{Address: metrics, Gatherer: registry, Log: log})
		if err != nil {
			p.Close()
			return err
		}
		parts = append([]run.Part{{Name: "metrics", Run: m.Run}}, parts...)
	}
	a.sayRunning(w, p, cfg)
	return run.Group(ctx, run.Config{Log: log, Notify: run.NewNotifier(os.Getenv)}, parts...)
}

// proxyFlags are the flags of kith run and kith proxy.
type proxyFlags struct {
	as, outbound, level          string
	decisions                    string
	expose, upstreams, advertise []string
	prove, via                   []string
	unsafeUpstream               bool
	allowUIDs                    []uint
}

func (f *proxyFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.as, "as", "", "the service to be (default: the one of the identity that the node gives it)")
	flags.StringArrayVar(&f.expose, "expose", nil, "let callers in: [HOST:]PORT=PORT, or PORT=unix:/path")
	flags.StringArrayVar(&f.upstreams, "upstream", nil, "a local port to a service: NAME=127.0.0.1:PORT")
	flags.StringVar(&f.decisions, "decisions", "", "a local port where the program asks for decisions, by OPA's data API or AuthZEN: 127.0.0.1:8181")
	flags.StringArrayVar(&f.prove, "prove", nil, "let callers in through a load balancer that ends mutual TLS: PORT=PORT[,audience=URL]")
	flags.StringArrayVar(&f.via, "via", nil, "call a service through such a load balancer: NAME=https://HOST,audience=URL")
	flags.StringArrayVar(&f.advertise, "advertise", nil, "where callers dial the exposed ports, if not where they listen: HOST:PORT")
	flags.BoolVar(&f.unsafeUpstream, "unsafe-upstream", false, "let the exposed application be on another host, in plain text")
	flags.StringVar(&f.level, "log-level", "", "debug, info, warn or error")
}

func (f *proxyFlags) logLevel(otherwise string) string {
	if f.level != "" {
		return f.level
	}
	return otherwise
}

// config reads the flags; the outbound listener is on a free port.
func (f *proxyFlags) config(a *app, log *slog.Logger) (proxy.Config, error) {
	cfg := proxy.Config{
		Outbound: "127.0.0.1:0", Advertise: f.advertise, UnsafeUpstream: f.unsafeUpstream, Environ: os.Environ(), Log: log,
	}
	for _, text := range f.expose {
		e, err := proxy.ParseExposure(text)
		if err != nil {
			return cfg, err
		}
		cfg.Expose = append(cfg.Expose, e)
	}
	for _, text := range f.prove {
		e, err := proxy.ParseProven(text)
		if err != nil {
			return cfg, err
		}
		cfg.Proven = append(cfg.Proven, e)
	}
	for _, text := range f.via {
		v, err := proxy.ParseVia(text)
		if err != nil {
			return cfg, err
		}
		cfg.Via = append(cfg.Via, v)
	}
	for _, text := range f.upstreams {
		u, err := proxy.ParseUpstream(text)
		if err != nil {
			return cfg, err
		}
		cfg.Upstreams = append(cfg.Upstreams, u)
	}
	if f.decisions != "" {
		asks, err := proxy.ParseAsks(f.decisions, authzSocket(a.paths.AgentSocket))
		if err != nil {
			return cfg, err
		}
		cfg.Asks = asks
	}
	if len(cfg.Advertise) == 0 && len(cfg.Expose) > 0 {
		advertise, err := a.advertised(cfg.Expose)
		if err != nil {
			return cfg, err
		}
		cfg.Advertise = advertise
	}
	for _, uid := range f.allowUIDs {
		cfg.AllowUIDs = append(cfg.AllowUIDs, uint32(uid))
	}
	return cfg, nil
}

// advertised is where callers dial the exposures, by the host's agent.advertise;
// none for wherever they listen. A user's service is on the host's agent, whose
// configuration is the system's.
func (a *app) advertised(exposed []proxy.Exposure) ([]string, error) {
	path := a.paths.Config
	if a.paths.AgentSocket == systemAgent {
		path = "/etc/kith/kith.yaml"
	}
	file, err := config.LoadOptional(path)
	if err != nil {
		return nil, err
	}
	if file.Agent.Advertise == "" {
		return nil, nil
	}
	var at []string
	for _, e := range exposed {
		host, port, err := net.SplitHostPort(e.Listen)
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
			at = append(at, e.Listen) // said to be this one and no other
			continue
		}
		at = append(at, net.JoinHostPort(file.Agent.Advertise, port))
	}
	return at, nil
}
