package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/agent"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

// joinVerb makes this host a node, by the line that kith nodes add printed.
func (a *app) joinVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use: "join ADDRESS/PIN/TOKEN | -", Short: "make this host a node, by the line that kith nodes add printed", Args: exactly(1),
		Long: `Join a trust domain: make the node key, prove to the server of ADDRESS - which has
to show the root that PIN names - by TOKEN that this host may come in, and keep
the node's SVID. The token works once; from then on the node key is the proof.
With - the line is read from standard input: arguments can be seen by every user
of this host while the command runs.

With --admin this user becomes an admin of the server instead: the admin SVID is
kept in a directory of theirs, and kith --server ADDRESS asks that server. It is
renewed by use; one that was not used for its whole life needs a new line.`,
		Example: "  kith join control.acme.example:8440/sha256-…/…\n  kith join - < line\n  kith join --admin control.acme.example:8444/sha256-…/…",
	}
	admin := cmd.Flags().Bool("admin", false, "become an admin, by the line that kith ids admins add printed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		text, err := a.joinText(args[0])
		if err != nil {
			return err
		}
		if *admin {
			return a.joinAdmin(cmd.Context(), text)
		}
		return a.join(cmd.Context(), text)
	}
	return cmd
}

// joinText is the line itself, or what standard input says for "-". The words
// "kith join" before it are what people copy along.
func (a *app) joinText(arg string) (string, error) {
	if arg != "-" {
		return arg, nil
	}
	const longest = 4 << 10
	text, err := io.ReadAll(io.LimitReader(a.stdin, longest))
	if err != nil {
		return "", fmt.Errorf("read the join line: %w", err)
	}
	line := strings.TrimSpace(string(text))
	for _, word := range []string{"kith ", "join ", "--admin "} {
		line = strings.TrimSpace(strings.TrimPrefix(line, word))
	}
	return line, nil
}

// joinLine is what kith nodes add printed, taken apart.
type joinLine struct {
	server string
	pin    spiffe.Pin
	token  string
}

// parseJoin reads address/pin/token. The token is not repeated in an error.
func parseJoin(text string) (joinLine, error) {
	const again = "copy the whole line that kith nodes add NAME --class CLASS printed on the server"
	parts := strings.Split(strings.TrimSpace(text), "/")
	if len(parts) != 3 {
		return joinLine{}, fault.Hint(fault.Invalidf("this is no join line: want ADDRESS/PIN/TOKEN"), again)
	}
	if _, _, err := net.SplitHostPort(parts[0]); err != nil {
		return joinLine{}, fault.Hint(fault.Invalidf("join line: address %q: want host:port", parts[0]), again)
	}
	pin, err := spiffe.ParsePin(parts[1])
	if err != nil {
		return joinLine{}, fault.Hint(fault.Invalidf("join line: %w", err), again)
	}
	return joinLine{parts[0], pin, parts[2]}, nil
}

// join is kith join: it ends when the node's SVID is on disk.
func (a *app) join(ctx context.Context, text string) error {
	line, err := parseJoin(text)
	if err != nil {
		return err
	}
	file, err := a.loadConfig()
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
	if cfg, err = withToken(cfg, line.token); err != nil {
		return fault.Hint(err, "copy the whole line that kith nodes add NAME --class CLASS printed on the server")
	}
	cfg.Server, cfg.Pin, cfg.Log = line.server, line.pin, slog.New(slog.DiscardHandler)
	joining, err := agent.New(cfg)
	if err != nil {
		return err
	}
	defer joining.Close()
	if err := joining.Join(ctx); err != nil {
		return err
	}
	name, class, id := joining.Node()
	fmt.Fprintf(a.stdout, "joined as node %s of class %s, %s\nnext: %s\n", name, class, id, agentCommand())
	return nil
}

// agentCommand starts the agent on this kind of host.
func agentCommand() string {
	if os.Geteuid() == 0 {
		for _, unit := range []string{"/etc/systemd/system/kith-agent.service", "/usr/lib/systemd/system/kith-agent.service"} {
			if _, err := os.Stat(unit); err == nil {
				return "systemctl enable --now kith-agent"
			}
		}
	}
	return "kith agent"
}
