package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/ca"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/keys"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/oidc"
	"github.com/kith-id/kith/internal/run"
	"github.com/kith-id/kith/internal/server"
	"github.com/kith-id/kith/spiffe"
)

// serverVerb is the control plane.
func (a *app) serverVerb() *cobra.Command {
	f := &serverFlags{}
	cmd := &cobra.Command{
		Use: "server", Short: "the control plane: certificate authority, rules, push to agents", Args: atMost(0),
		Long: `Run the control plane. Everything it keeps is in the state directory; the first
start makes the trust domain that kith.yaml or --trust-domain names. One process
is enough; agents go on while it is away.`,
		Example: `  kith server --trust-domain acme.example
  kith server --listen :8440 --address control.acme.example:8440`,
	}
	flags := cmd.Flags()
	flags.StringVar(&f.trustDomain, "trust-domain", "", "the trust domain, at the first start (trust_domain)")
	flags.StringVar(&f.listen, "listen", "", "host:port agents connect to (server.listen)")
	flags.StringVar(&f.address, "address", "", "host:port in join lines (server.address)")
	flags.StringVar(&f.adminListen, "admin-listen", "", "host:port for admins elsewhere (server.admin_listen)")
	flags.StringVar(&f.metrics, "metrics", "", "host:port of /metrics and /healthz (server.metrics)")
	flags.StringVar(&f.level, "log-level", "", "debug, info, warn or error (log.level)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		file, err := a.loadConfig()
		if err != nil {
			return err
		}
		if err := f.override(cmd, &file); err != nil {
			return err
		}
		return a.serve(cmd.Context(), file)
	}
	cmd.AddCommand(a.storeMember())
	return cmd
}

// storeMember is the child process that holds the store; only kith server
// starts it, with a pipe that ends it.
func (a *app) storeMember() *cobra.Command {
	return &cobra.Command{
		Use: storeMemberVerb(), Hidden: true, DisableFlagParsing: true,
		Short:       "the store of kith server, which starts it",
		Annotations: map[string]string{withoutConfig: ""},
		RunE:        func(cmd *cobra.Command, args []string) error { return runStoreMember(cmd.Context(), args) },
	}
}

// serverFlags override keys of kith.yaml.
type serverFlags struct{ trustDomain, listen, address, adminListen, metrics, level string }

func (f *serverFlags) override(cmd *cobra.Command, file *config.File) error {
	set := func(flag string, to *string, value string) {
		if cmd.Flags().Changed(flag) {
			*to = value
		}
	}
	set("trust-domain", &file.TrustDomain, f.trustDomain)
	set("listen", &file.Server.Listen, f.listen)
	set("address", &file.Server.Address, f.address)
	set("admin-listen", &file.Server.AdminListen, f.adminListen)
	set("metrics", &file.Server.Metrics, f.metrics)
	if cmd.Flags().Changed("log-level") {
		file.Log.Level = config.Level(f.level)
	}
	return file.Validate()
}

// serve is kith server: store, keys, server; then stop in reverse.
func (a *app) serve(ctx context.Context, file config.File) error {
	log, err := logTo(a.stderr, string(file.Log.Level), string(file.Log.Format))
	if err != nil {
		return err
	}
	paths := a.paths
	if err := a.makeDirs(); err != nil {
		return err
	}
	cfg, err := serverConfig(file, paths)
	if err != nil {
		return err
	}
	clock := obs.NewClock(a.now, obs.Uptime())
	cfg.Now, cfg.ClockJump, cfg.Log, cfg.Verifiers = clock.Now, clock.Jump, log, verifiers(clock.Now)
	if cfg.Federation, err = exchange(file.Server.Federation, paths, clock.Now, log); err != nil {
		return err
	}
	if cfg.OIDC, err = oidcOf(file.Server.OIDC, paths, clock.Now, log); err != nil {
		return err
	}
	// 1. The KEK, before the store: what is sealed in there needs this very one.
	if cfg.KEK, err = openKEK(file, paths); err != nil {
		return err
	}
	// 2. The audit log, which everything below writes.
	journal, err := audit.Open(auditConfig(file.Server.Audit, paths, clock.Now, log))
	if err != nil {
		return err
	}
	defer journal.Close()
	cfg.Audit = journal
	// 3. The store, which outlives the server that stands on it.
	engine, err := openStore(ctx, paths.State, log, clock.Now)
	if err != nil {
		return err
	}
	defer engine.Close()
	if cfg.Store, err = storeFor(engine); err != nil {
		return err
	}
	cfg.StoreHealth = healthOf(engine)
	// 4. The server itself.
	s, err := run.Loading(func() (*server.Server, error) { return server.New(ctx, cfg) })
	if err != nil {
		return err
	}
	log.Info("server ready", "trust_domain", s.TrustDomain().String(), "listen", s.Addr(), "address", cfg.Address,
		"pin", s.Pin().String(), "admin", paths.AdminSocket, "admin_listen", s.AdminAddr(), "metrics", s.MetricsAddr())
	fmt.Fprintf(a.stderr, "next: kith nodes add NAME --class vms\n")
	if s.AdminAddr() != "" {
		fmt.Fprintf(a.stderr, "admins elsewhere: kith ids admins add NAME --role admin\n")
	}
	return run.Group(ctx, run.Config{Log: log, Notify: run.NewNotifier(os.Getenv)}, run.Part{Name: "server", Run: s.Run})
}

// serverConfig is what kith.yaml says, in the server's own terms.
func serverConfig(file config.File, paths config.Paths) (server.Config, error) {
	cfg := server.Config{
		Name: file.Server.Name, Version: obs.BuildVersion().Version,
		Listen: file.Server.Listen, Address: file.Server.Address, Metrics: file.Server.Metrics,
		AdminSocket: paths.AdminSocket, AdminListen: file.Server.AdminListen, JournalPath: filepath.Join(paths.State, "issuance.journal"),
		RS256Audiences: rs256Audiences(file.Server), WIT: file.Features.WIT,
	}
	if file.TrustDomain != "" {
		td, err := spiffe.ParseTrustDomain(file.TrustDomain)
		if err != nil {
			return cfg, fault.Invalidf("trust_domain: %w", err)
		}
		cfg.TrustDomain = td
	}
	hostname, err := os.Hostname()
	if err != nil {
		return cfg, fmt.Errorf("this host's name: %w", err)
	}
	if cfg.Name == "" {
		cfg.Name = hostname
	}
	if cfg.Address == "" {
		cfg.Address = joinAddress(cfg.Listen, hostname)
	}
	cfg.Lifetimes, err = ca.LifetimesFor(time.Duration(file.Survive.ControlPlaneOutage))
	return cfg, err
}

// rs256Audiences is the configured ones and, where tokens are for other clouds at
// all, Azure's, which reads nothing else.
func rs256Audiences(s config.Server) []string {
	if s.OIDC.Issuer == "" || slices.Contains(s.RS256Audiences, oidc.AzureAudience) {
		return s.RS256Audiences
	}
	return append(slices.Clone(s.RS256Audiences), oidc.AzureAudience)
}

// joinAddress is what join lines carry when nobody said: the address that is
// listened on, or this host's name where that is every address.
func joinAddress(listen, hostname string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" {
		return "" // the listener's own, once it has one
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = hostname
	}
	return net.JoinHostPort(host, port)
}

// openKEK makes the key encryption key at the first start only: where there is
// a store already, a new key could open nothing in it.
func openKEK(file config.File, paths config.Paths) (*keys.KEK, error) {
	path := file.Server.KEKFile
	if path == "" {
		path = filepath.Join(paths.State, "kek")
	}
	if _, err := os.Stat(storeDir(paths.State)); os.IsNotExist(err) {
		return keys.FileKEK(path)
	}
	kek, err := keys.OpenFileKEK(path)
	if fault.Is(err, fault.NotFound) {
		err = fault.Hint(err, "put your copy of the key there: install -m 0400 COPY %s", path)
	}
	return kek, err
}
