package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/proxy"
)

// appPatience is how long an app may take to answer on its port before we say
// that it does not.
const appPatience = 10 * time.Second

// runVerb runs a program with an identity.
func (a *app) runVerb() *cobra.Command {
	f := &proxyFlags{}
	cmd := &cobra.Command{
		Use: "run [--as NAME] [--expose PORT=PORT] -- PROGRAM ARGS...", Short: "run an unmodified program as a service",
		Long: `Run a program with the identity of a service. --expose lets callers reach it by
mutual TLS; the proxy variables in its environment (http_proxy and the like) let
it call http://<service>/… ; --upstream gives it a local port that leads to a
service by raw TCP; --decisions one where a program that asks an OPA, or an
AuthZEN decision point, is answered by the rules. kith run forwards signals, ends when the program ends, with
the program's exit code, and its claim to the name ends with it.

Processes of the same user are no boundary: whoever may run as this user may
reach the program's own port. --expose 8443=unix:/path keeps other users out.`,
		Example: `  kith run --as orders --expose 8443=8080 -- ./orders
  kith run --as web -- curl http://orders/v1/orders
  kith run --as web --upstream postgres=127.0.0.1:5432 -- psql -h 127.0.0.1
  kith run --as orders --decisions 127.0.0.1:8181 -- ./orders`,
		Args: atLeast(1),
	}
	f.add(cmd)
	cmd.Flags().SetInterspersed(false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.runProgram(cmd.Context(), f, args) }
	return cmd
}

// runProgram is kith run: attach, bind, start the program, wait for it.
func (a *app) runProgram(ctx context.Context, f *proxyFlags, command []string) error {
	log, err := obs.NewLogger(obs.LogConfig{Out: a.stderr, Level: f.logLevel("warn")})
	if err != nil {
		return err
	}
	cfg, err := f.config(a, log)
	if err != nil {
		return err
	}
	w, err := a.open(ctx, kith.Config{As: f.as, Serves: len(cfg.Expose)+len(cfg.Proven) > 0, Calls: true, Log: log})
	if err != nil {
		return err
	}
	defer w.Close()
	cfg.Workload = w
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	// From here on a signal is the program's: it decides when to end.
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	served := make(chan error, 1)
	go func() {
		defer stop() // a data plane that fails takes the program with it
		served <- p.Run(life)
	}()
	program, err := a.startChild(command, proxy.Environ(os.Environ(), p.OutboundAddr(), w.Socket()))
	if err != nil {
		stop()
		<-served
		return err
	}
	program.onTerm = func() { w.Advertise() } // callers go elsewhere while it drains
	a.sayRunning(w, p, cfg)
	go watchApp(life, cfg.Expose, log)
	ended := program.wait(life)
	stop()
	if err := <-served; err != nil {
		return err
	}
	return ended
}

// sayRunning says who the program is and where it can be reached.
func (a *app) sayRunning(w *kith.Workload, p *proxy.Proxy, cfg proxy.Config) {
	var where strings.Builder
	for i, at := range p.InboundAddrs() {
		fmt.Fprintf(&where, ", %s leads to %s", at, cfg.Expose[i].Target)
	}
	for i, at := range p.ProvenAddrs() {
		fmt.Fprintf(&where, ", %s leads to %s for requests proved to %s", at, cfg.Proven[i].Target, cfg.Proven[i].Proof.Audience)
	}
	for i, at := range p.UpstreamAddrs() {
		fmt.Fprintf(&where, ", %s leads to service %s", at, cfg.Upstreams[i].Service)
	}
	if at := p.AsksAddr(); at != "" {
		fmt.Fprintf(&where, ", %s leads to decisions", at)
	}
	if where.Len() > 0 {
		fmt.Fprintf(a.stderr, "kith: %s%s\n", w.ID(), where.String())
	}
}

// watchApp says so when nothing answers on the program's port: every caller
// would get 502 and nobody would know why.
func watchApp(ctx context.Context, exposed []proxy.Exposure, log *slog.Logger) {
	for _, e := range exposed {
		if !answers(ctx, e) && ctx.Err() == nil {
			log.Warn("nothing answers at the application's address, so callers get 502",
				"target", e.Target, "after", appPatience.String(), "hint", "does the program listen there?")
		}
	}
}

// answers waits until the application accepts a connection.
func answers(ctx context.Context, e proxy.Exposure) bool {
	ctx, cancel := context.WithTimeout(ctx, appPatience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		if conn, err := dialer.DialContext(ctx, e.Network, e.Target); err == nil {
			conn.Close()
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// logTo makes a program's log.
func logTo(w io.Writer, level, format string) (*slog.Logger, error) {
	return obs.NewLogger(obs.LogConfig{Out: w, Level: level, Format: format})
}
