package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/obs"
	"github.com/kith-id/kith/internal/run"
)

// app is what every verb is given: the terminal, the clock and where things are.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	now    func() time.Time
	paths  config.Paths
	far    far
}

// execute is main with an exit code.
func execute() int {
	ctx, release := run.Signals(context.Background())
	defer release()
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: obs.Now}
	err := a.main(ctx, os.Args[1:])
	report(a.stderr, err)
	return exitCode(err)
}

// main runs one command line.
func (a *app) main(ctx context.Context, args []string) error {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	return root.ExecuteContext(ctx)
}

// root is the tree of verbs.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "kith",
		Short: "who a service is, and what it may do",
		Long: `kith gives every service an identity that it can prove, and decides by rules
which service may do what on which other one.

The first five minutes, without a cluster, an account or root:

  kith dev                                             # leave it running
  kith run --as orders --expose 8443=8080 -- ./orders  # an unmodified program
  kith curl --as web http://orders/v1/orders           # 403, and the reason
  kith allow web "GET /v1/orders/{**}" on orders
  kith curl --as web http://orders/v1/orders           # 200
  kith why last

or all of it at once: kith demo`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchVerb,
		RunE:          helpOnly,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.locate(cmd)
		},
	}
	root.SetFlagErrorFunc(flagMistake)
	locationFlags(root)
	groups := []struct {
		id, title string
		verbs     []*cobra.Command
	}{
		{"start", "Start:", []*cobra.Command{a.demoVerb(), a.devVerb(), a.runVerb(), a.curlVerb()}},
		{"rule", "Say who may do what:", []*cobra.Command{a.allowVerb(), a.denyVerb(), a.rulesVerb(), a.servicesVerb(), a.planVerb(), a.applyVerb(), a.importVerb()}},
		{"see", "See what happens and why:", []*cobra.Command{a.whyVerb(), a.watchVerb(), a.statusVerb(), a.doctorVerb(), a.idsVerb(), a.getVerb()}},
		{"serve", "Run it on several hosts:", []*cobra.Command{a.serverVerb(), a.nodesVerb(), a.joinVerb(), a.agentVerb(), a.proxyVerb(), a.federateVerb()}},
		{"more", "More:", []*cobra.Command{a.configVerb(), a.logVerb(), a.versionVerb()}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, verb := range g.verbs {
			verb.GroupID = g.id
			root.AddCommand(verb)
		}
	}
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	return root
}

// locationFlags are the flags that every verb has.
func locationFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.String("run-dir", "", "directory of the sockets (KITH_RUN_DIR)")
	flags.String("state-dir", "", "directory of what is kept (KITH_STATE_DIR)")
	flags.String("config", "", "configuration file (KITH_CONFIG)")
	flags.String("admin-socket", "", "the server's admin socket (KITH_ADMIN_SOCKET)")
	flags.String("agent-socket", "", "the agent's socket (KITH_AGENT_SOCKET)")
	flags.String("server", "", "ask the server at this host:port, as an admin (KITH_SERVER)")
	flags.String("admin-svid", "", "directory of the admin SVID (KITH_ADMIN_SVID; default: admin in the state directory)")
	for _, name := range []string{"run-dir", "state-dir", "config", "admin-socket", "agent-socket", "admin-svid"} {
		// They matter to few people; --help shows them on the root only.
		_ = flags.MarkHidden(name)
	}
}

// locate decides where everything is: a flag, else the environment, else the
// user's or the system's directories.
func (a *app) locate(cmd *cobra.Command) error {
	if keepsKeys(cmd) {
		if err := closeMemory(); err != nil {
			return err
		}
	}
	flag := map[string]string{
		"KITH_RUN_DIR":      "run-dir",
		"KITH_STATE_DIR":    "state-dir",
		"KITH_CONFIG":       "config",
		"KITH_ADMIN_SOCKET": "admin-socket",
		"KITH_AGENT_SOCKET": "agent-socket",
	}
	paths, err := config.DefaultPaths(func(name string) string {
		if f := cmd.Flags().Lookup(flag[name]); f != nil && f.Changed {
			return f.Value.String()
		}
		return os.Getenv(name)
	}, os.Geteuid())
	if err != nil {
		return err
	}
	a.paths = paths
	if err := a.locateServer(cmd); err != nil {
		return err
	}
	if needsNoConfig(cmd) {
		return nil
	}
	file, err := a.loadConfig()
	if err != nil {
		return err
	}
	a.paths = paths.With(file)
	a.nearestAgent(cmd)
	return nil
}

// systemAgent is the socket of the agent that serves every user of this host.
const systemAgent = "/run/kith/agent.sock"

// nearestAgent finds the agent where nobody said which: under kith run the one
// that it names; for a user without an agent of their own the host's.
func (a *app) nearestAgent(cmd *cobra.Command) {
	if os.Getenv("KITH_AGENT_SOCKET") != "" || cmd.Flags().Changed("agent-socket") || cmd.Flags().Changed("run-dir") {
		return
	}
	value := os.Getenv("SPIFFE_ENDPOINT_SOCKET")
	if path, ok := strings.CutPrefix(value, "unix://"); ok || strings.HasPrefix(value, "tcp:") {
		a.paths.AgentSocket = path // one on TCP is refused, and not another one used instead
		return
	}
	if os.Getenv("KITH_RUN_DIR") != "" || present(a.paths.AgentSocket) == nil {
		return
	}
	if present(systemAgent) == nil {
		a.paths.AgentSocket = systemAgent
	}
}

// keepsKeys says whether the verb is a program with keys in its memory that are
// worth more than those of the user's own workloads.
func keepsKeys(cmd *cobra.Command) bool {
	for c := cmd; c.HasParent(); c = c.Parent() {
		switch {
		case c.Parent().HasParent():
		case c.Name() == "server", c.Name() == "agent", c.Name() == "dev":
			return true
		}
	}
	return false
}

// withoutConfig marks a verb that works although kith.yaml is broken.
const withoutConfig = "without-config"

// needsNoConfig says whether the verb, or the one that holds it, is so marked.
func needsNoConfig(cmd *cobra.Command) bool {
	for c := cmd; c != nil; c = c.Parent() {
		if _, ok := c.Annotations[withoutConfig]; ok || c.Name() == "completion" || c.Name() == "help" {
			return true
		}
	}
	return false
}

// loadConfig reads kith.yaml. A file at the default place may be missing, one
// that KITH_CONFIG or --config names may be missing too: the first `kith join`
// writes it.
func (a *app) loadConfig() (config.File, error) {
	return config.LoadOptional(a.paths.Config)
}

// helpOnly is what a verb that only holds other verbs does.
func helpOnly(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// noSuchVerb refuses a word that is no verb and names the nearest one.
func noSuchVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fault.Invalidf("unknown verb %q", strings.TrimSpace(cmd.CommandPath()+" "+args[0]))
	var words []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			words = append(words, sub.Name())
		}
	}
	if near := fault.Nearest(args[0], words); near != "" {
		return fault.Hint(err, "%s %s", cmd.CommandPath(), near)
	}
	return fault.Hint(err, "%s --help", cmd.CommandPath())
}

// exactly, atMost and atLeast are cobra's argument counts with errors that show
// the verb's own usage line.
func exactly(n int) cobra.PositionalArgs {
	return counted(func(got int) bool { return got == n })
}

func atMost(n int) cobra.PositionalArgs {
	return counted(func(got int) bool { return got <= n })
}

func atLeast(n int) cobra.PositionalArgs {
	return counted(func(got int) bool { return got >= n })
}

func counted(good func(int) bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if good(len(args)) {
			return nil
		}
		got := "no argument was given"
		if len(args) > 0 {
			got = fmt.Sprintf("got %q", args)
		}
		return usagef(cmd, "%s; want: %s", got, cmd.UseLine())
	}
}

// flagMistake refuses an unknown flag and names the nearest one.
func flagMistake(cmd *cobra.Command, err error) error {
	wrong := fault.Wrap(fault.Invalid, err)
	var unknown interface{ GetSpecifiedName() string }
	if errors.As(err, &unknown) {
		var names []string
		for _, word := range strings.Fields(cmd.Flags().FlagUsages()) {
			if name, ok := strings.CutPrefix(word, "--"); ok {
				names = append(names, name)
			}
		}
		if near := fault.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			return fault.Hint(wrong, "%s --%s", cmd.CommandPath(), near)
		}
	}
	return fault.Hint(wrong, "%s --help", cmd.CommandPath())
}
