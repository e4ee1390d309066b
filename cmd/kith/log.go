package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kith-id/kith/internal/audit"
	"github.com/kith-id/kith/internal/config"
	"github.com/kith-id/kith/internal/fault"
)

// auditConfig is the server's audit log.
func auditConfig(c config.Audit, paths config.Paths, now func() time.Time, log *slog.Logger) audit.Config {
	return audit.Config{Path: auditLog(paths), Now: now, FileBytes: int64(c.FileSize), Files: c.Files, Log: log}
}

func auditLog(paths config.Paths) string { return filepath.Join(paths.State, "audit.log") }

// logVerb looks at the record of deeds.
func (a *app) logVerb() *cobra.Command {
	cmd := &cobra.Command{Use: "log", Short: "check the server's audit log", Args: noSuchVerb, RunE: helpOnly}
	cmd.AddCommand(a.logVerify())
	return cmd
}

func (a *app) logVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify [FILE]", Short: "check that no line of the audit log was changed, moved or taken out", Args: atMost(1),
		Long: `Reads the audit log of this host's server, all of its files, and checks that each
line holds the hash of the one before. It may be done while the server runs.

The hashes show what was changed by somebody who did not write all later lines
anew, and nothing of what was cut off the end. Keep the head that is printed
somewhere else, and give it the next time: then both show.`,
		Example: "  kith log verify\n  kith log verify --head 5321:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
	}
	head := cmd.Flags().String("head", "", "a head printed earlier, which the log must hold")
	f := outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		kept, err := parseHead(*head)
		if err != nil {
			return err
		}
		path := auditLog(a.paths)
		if len(args) == 1 {
			path = args[0]
		}
		report, err := audit.Verify(path, kept)
		if errors.Is(err, fs.ErrNotExist) {
			return fault.Hint(fault.NotFoundf("there is no audit log %s", path), "run it on the server's host, as the server's user")
		}
		if err != nil {
			return err
		}
		if kept.Seq > 0 && !report.Holds {
			if kept.Seq < report.First {
				return fault.Hint(fault.NotFoundf("line %d has gone: the log begins at line %d, as server.audit allows", kept.Seq, report.First), "give a later head")
			}
			err := fault.Invalidf("the log does not hold line %d with that hash: it was written anew, or lines were cut off", kept.Seq)
			return fault.Hint(err, "keep the files as evidence and compare them with a copy shipped earlier")
		}
		return a.printAudit(*f, report)
	}
	return cmd
}

func (a *app) printAudit(f format, report audit.Report) error {
	head := fmt.Sprintf("%d:%s", report.Head.Seq, report.Head.Hash)
	if f != asTable {
		return a.print(f, table{values: map[string]any{"first": report.First, "last": report.Head.Seq, "files": report.Files, "head": head}})
	}
	if report.Head.Seq == 0 {
		_, err := fmt.Fprintln(a.stdout, "the audit log is empty")
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "lines %d to %d in %d files follow from each other\nhead  %s\n", report.First, report.Head.Seq, report.Files, head)
	return err
}

// parseHead reads LINE:HASH; nothing is the zero head.
func parseHead(text string) (audit.Head, error) {
	if text == "" {
		return audit.Head{}, nil
	}
	number, hash, ok := strings.Cut(text, ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	if raw, hexErr := hex.DecodeString(hash); !ok || err != nil || seq == 0 || hexErr != nil || len(raw) != 32 {
		return audit.Head{}, fault.Invalidf("--head %q is not LINE:HASH, as kith log verify prints it", text)
	}
	return audit.Head{Seq: seq, Hash: strings.ToLower(hash)}, nil
}
