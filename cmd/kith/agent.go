package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/spiffe"
)

// agentVerb is the program that runs once on every node.
func (a *app) agentVerb() *cobra.Command {
	var level string
	cmd := &cobra.Command{
		Use: "agent", Short: "serve the workloads of this node", Args: atMost(0),
		Long: `Identify the workloads of this node, keep their SVIDs fresh and bring rules to
their proxies. The node has to have joined once (kith join); after that the agent
goes on while the server is away. SIGHUP renews every workload's SVID at once.

Beside its socket is authz.sock, where proxies ask for decisions over HTTP
(auth_request, forward_auth), and applications by OPA's data API or AuthZEN 1.0.`,
		Example: "  kith agent\n  systemctl enable --now kith-agent",
	}
	cmd.Flags().StringVar(&level, "log-level", "", "debug, info, warn or error (log.level)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := a.loadConfig()
		if err != nil {
			return err
		}
		if level != "" {
			file.Log.Level = config.Level(level)
		}
		return a.serveAgent(cmd.Context(), file)
	}
	return cmd
}

// agentDir is where an agent keeps the node key and what it has cached.
func agentDir(stateDir string) string { return filepath.Join(stateDir, "agent") }

// authzSocket is where proxies and applications ask over HTTP: beside the agent's socket.
func authzSocket(agentSocket string) string {
	return filepath.Join(filepath.Dir(agentSocket), "authz.sock")
}

// agentConfig is what kith.yaml says, in the agent's own terms.
func (a *app) agentConfig(file config.File) (agent.Config, error) {
	cfg := withPlatform(agent.Config{
		StateDir: agentDir(a.paths.State), Socket: a.paths.AgentSocket, AuthzSocket: authzSocket(a.paths.AgentSocket),
		AuthzListen: file.Agent.AuthzListen, AuthZENURL: file.Agent.AuthZENURL,
		Server: file.Agent.Server, WIT: file.Features.WIT, Version: obs.BuildVersion().Version, Now: a.now,
	})
	if path := file.Agent.KEKFile; path != "" {
		kek, err := keys.FileKEK(path)
		if err != nil {
			return cfg, fmt.Errorf("agent.kek_file: %w", err)
		}
		cfg.KEK = kek
	}
	if err := keySources(&cfg, file.Agent.UserTokens); err != nil {
		return cfg, err
	}
	cfg, err := withKubelet(cfg, file.Agent.Kubernetes)
	if err != nil {
		return cfg, err
	}
	if cfg.Broker, err = brokerOf(file, a.paths); err != nil {
		return cfg, err
	}
	if cfg.Decisions, err = decisionLog(file.Agent.DecisionLog); err != nil {
		return cfg, err
	}
	cfg.Documents = documentsOf(file.Agent.Documents)
	if file.Agent.Pin == "" {
		return cfg, nil
	}
	pin, err := spiffe.ParsePin(file.Agent.Pin)
	if err != nil {
		return cfg, fault.Invalidf("agent.pin: %w", err)
	}
	cfg.Pin = pin
	return cfg, nil
}

// documentsOf is where applications that were written for OPA look for decisions.
func documentsOf(from []config.Document) []extauthz.Document {
	var out []extauthz.Document
	for _, d := range from {
		doc := extauthz.Document{Path: d.Path, Service: d.Service}
		if in := d.Input; in != (config.DocumentInput{}) {
			doc.Reading = &extauthz.Reading{From: in.From, Prefix: in.Prefix, Method: in.Method, Path: in.Path, Host: in.Host, Headers: in.Headers}
		}
		out = append(out, doc)
	}
	return out
}

// brokerOf is who may act on behalf of workloads here.
func brokerOf(file config.File, paths config.Paths) (agent.Broker, error) {
	if !file.Features.Broker {
		return agent.Broker{}, nil
	}
	from := file.Agent.Broker
	out := agent.Broker{Socket: from.Socket, Group: -1}
	if out.Socket == "" {
		// In a directory of its own: a container that is given it gets nothing else.
		out.Socket = filepath.Join(paths.Run, "broker", "broker.sock")
	}
	if from.Group != "" {
		group, err := user.LookupGroup(from.Group)
		if err != nil {
			return out, fault.Hint(fault.Invalidf("agent.broker.group: there is no group %q", from.Group), "groupadd --system %s", from.Group)
		}
		if out.Group, err = strconv.Atoi(group.Gid); err != nil {
			return out, fmt.Errorf("agent.broker.group: %w", err)
		}
	}
	for _, grant := range from.Allow {
		out.Allow = append(out.Allow, agent.BrokerGrant{ID: grant.ID, For: grant.For})
	}
	return out, nil
}

// keySources is where an agent may go for the keys of providers.
func keySources(cfg *agent.Config, from config.UserTokens) error {
	for _, text := range from.Allow {
		network, err := config.ParseNetwork(text)
		if err != nil {
			return fault.Invalidf("agent.user_tokens.allow: %w", err)
		}
		cfg.KeyNetworks = append(cfg.KeyNetworks, network)
	}
	cfg.KeyHosts = from.Hosts
	if from.CAFile == "" {
		return nil
	}
	text, err := os.ReadFile(from.CAFile)
	if err != nil {
		return fmt.Errorf("agent.user_tokens.ca_file: %w", err)
	}
	cfg.KeyRoots = x509.NewCertPool()
	if !cfg.KeyRoots.AppendCertsFromPEM(text) {
		return fault.Invalidf("agent.user_tokens.ca_file: %s holds no certificate in PEM", from.CAFile)
	}
	return nil
}

// serveAgent is kith agent.
func (a *app) serveAgent(ctx context.Context, file config.File) error {
	log, err := logTo(a.stderr, string(file.Log.Level), string(file.Log.Format))
	if err != nil {
		return err
	}
	if err := a.makeDirs(); err != nil {
		return err
	}
	cfg, err := a.agentConfig(file)
	if err != nil {
		return err
	}
	registry := obs.NewRegistry()
	cfg.Log, cfg.Metrics = log, registry
	served, err := agent.New(cfg)
	if err != nil {
		return err
	}
	var parts []run.Part
	if file.Agent.Metrics != "" {
		m, err := obs.NewMetrics(obs.MetricsConfig{Address: file.Agent.Metrics, Gatherer: registry, Log: log})
		if err != nil {
			served.Close()
			return err
		}
		log.Info("metrics", "address", m.Addr())
		parts = append(parts, run.Part{Name: "metrics", Run: m.Run})
	}
	parts = append(parts,
		run.Part{Name: "garbage", Run: run.Garbage{}.Run},
		run.Part{Name: "agent", Run: served.Run, Ready: served.Ready()},
		run.Part{Name: "hangup", Run: func(ctx context.Context) error { return onHangup(ctx, served.RenewAll) }})
	return run.Group(ctx, run.Config{
		Log: log, Notify: run.NewNotifier(os.Getenv),
		OnReady: func() { log.Info("agent ready", "socket", a.paths.AgentSocket) },
	}, parts...)
}

// onHangup calls act at each SIGHUP until ctx ends.
func onHangup(ctx context.Context, act func()) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			act()
		}
	}
}

// makeDirs makes the private state directory and the one of the sockets.
func (a *app) makeDirs() error {
	if err := a.paths.MakeState(); err != nil {
		return err
	}
	return a.paths.MakeRun()
}
