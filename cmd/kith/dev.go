package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

const (
	// devNode is the one node of kith dev, and its class.
	devNode = "dev"
	// devJournal is the journal's size: nothing is shipped anywhere, so it is never
	// behind, and what has to be written first of all is what a start waits for.
	devJournal = 4 << 20
)

// devFlags are the flags of kith dev.
type devFlags struct {
	listen, metrics, trustDomain, level string
	wit                                 bool
}

// devVerb is a whole trust domain in one process, for trying it out.
func (a *app) devVerb() *cobra.Command {
	f := &devFlags{}
	cmd := &cobra.Command{
		Use: "dev", Short: "a whole trust domain in one process, kept nowhere: the first five minutes", Args: atMost(0),
		Long: `Run server and agent in one process with throw-away state, on loopback only. A
service name is declared by its first use. Everything is gone when it ends.`,
		Example: "  kith dev",
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:0", "loopback address of the node API")
	flags.StringVar(&f.metrics, "metrics", "", "loopback address of /metrics and /healthz")
	flags.StringVar(&f.trustDomain, "trust-domain", "dev.kith.local", "the trust domain")
	flags.StringVar(&f.level, "log-level", "error", "debug, info, warn or error")
	flags.BoolVar(&f.wit, "wit", false, "WIT-SVIDs too (features.wit)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		begin := time.Now()
		return a.runDev(cmd.Context(), f, func(s *server.Server) { a.sayReady(s, time.Since(begin)) })
	}
	return cmd
}

// runDev is kith dev: it serves until ctx ends, and calls ready once it does.
func (a *app) runDev(ctx context.Context, f *devFlags, ready func(*server.Server)) error {
	log, err := logTo(a.stderr, f.level, "")
	if err != nil {
		return err
	}
	if err := errors.Join(loopbackOnly("--listen", f.listen), loopbackOnly("--metrics", f.metrics)); err != nil {
		return err
	}
	if err := a.paths.MakeRun(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kith-dev-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := a.devServer(ctx, f, dir, log)
	if err != nil {
		return err
	}
	node, err := a.devAgent(ctx, f, s, dir, log)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	// Stopping is not worth a line here: Ctrl-C is how kith dev ends.
	return run.Group(ctx, run.Config{Drain: 5 * time.Second, OnReady: func() { ready(s) }},
		run.Part{Name: "server", Run: s.Run},
		run.Part{Name: "agent", Run: node.Run, Ready: node.Ready()},
	)
}

// loopbackOnly refuses an address that others could reach.
func loopbackOnly(flag, address string) error {
	if address == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fault.Invalidf("%s: %q is no host:port", flag, address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		err := fault.Invalidf("%s: %s is not on loopback; kith dev lets anybody on this host declare services", flag, address)
		return fault.Hint(err, "kith server, for other hosts")
	}
	return nil
}

func (a *app) devServer(ctx context.Context, f *devFlags, dir string, log *slog.Logger) (*server.Server, error) {
	td, err := spiffe.ParseTrustDomain(f.trustDomain)
	if err != nil {
		return nil, fault.Invalidf("--trust-domain: %w", err)
	}
	kek, err := keys.FileKEK(filepath.Join(dir, "kek"))
	if err != nil {
		return nil, err
	}
	return server.New(ctx, server.Config{
		Name: devNode, TrustDomain: td, Version: obs.BuildVersion().Version, Dev: true,
		Listen: f.listen, Metrics: f.metrics, AdminSocket: a.paths.AdminSocket,
		Store: throwAwayStore(), Verifiers: verifiers(a.now), KEK: kek,
		JournalPath: filepath.Join(dir, "issuance.journal"), JournalBytes: devJournal, Lifetimes: ca.DefaultLifetimes(),
		WIT: f.wit, Now: a.now, Log: log,
	})
}

// devAgent is the agent of kith dev. It joins as any other does, by a token.
func (a *app) devAgent(ctx context.Context, f *devFlags, s *server.Server, dir string, log *slog.Logger) (*agent.Agent, error) {
	const by = "kith dev"
	added, err := s.AddNode(ctx, by, &pb.AddNodeRequest{Name: devNode, Class: devNode})
	if err != nil {
		return nil, fmt.Errorf("make a join token: %w", err)
	}
	line, err := parseJoin(added.GetJoin())
	if err != nil {
		return nil, err
	}
	cfg, err := withToken(withPlatform(agent.Config{
		StateDir: agentDir(dir), Socket: a.paths.AgentSocket, AuthzSocket: authzSocket(a.paths.AgentSocket), Server: line.server, Pin: line.pin,
		WIT: f.wit, Version: obs.BuildVersion().Version, Now: a.now, Log: log,
		KeyHosts: []string{"localhost", "127.0.0.1", "::1"}, // a provider to try it with
		Declare: func(ctx context.Context, name string) error {
			_, err := s.Apply(ctx, api.Actor{Name: by, Role: registry.RoleAdmin}, &pb.ApplyRequest{Declare: []string{name}, Owner: ownerCLI})
			return err
		},
	}), line.token)
	if err != nil {
		return nil, err
	}
	file, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	if cfg.Decisions, err = decisionLog(file.Agent.DecisionLog); err != nil {
		return nil, err
	}
	cfg.Documents = documentsOf(file.Agent.Documents)
	cfg.AuthzListen, cfg.AuthZENURL = file.Agent.AuthzListen, file.Agent.AuthZENURL
	return agent.New(cfg)
}

// sayReady prints where it is and what to type next.
func (a *app) sayReady(s *server.Server, took time.Duration) {
	fmt.Fprintf(a.stdout, "kith dev is ready after %s: trust domain %s; nothing is kept. Ctrl-C ends it.\n", short(took), s.TrustDomain())
	if address := s.MetricsAddr(); address != "" {
		fmt.Fprintf(a.stdout, "metrics: http://%s/metrics\n", address)
	}
	fmt.Fprintln(a.stdout, "next, in another terminal:")
	usual, err := config.DefaultPaths(withoutKith, os.Geteuid())
	if err == nil && usual.Run != a.paths.Run {
		fmt.Fprintf(a.stdout, "  export KITH_RUN_DIR=%s\n", a.paths.Run)
	}
	fmt.Fprintln(a.stdout, "  kith run --as orders --expose 8443=8080 -- ./orders")
}

// withoutKith is the environment as another terminal has it.
func withoutKith(name string) string {
	if len(name) > 5 && name[:5] == "KITH_" {
		return ""
	}
	return os.Getenv(name)
}
