// Package obs is how a program shows itself: its log, its metrics, its version
// and its clock. What is logged or measured belongs to the rooms.
package obs

import (
	"io"
	"log/slog"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// LogConfig says how a program logs.
type LogConfig struct {
	// Out is where lines go, standard error in a program.
	Out io.Writer
	// Level is debug, info, warn or error; empty is info.
	Level string
	// Format is text or json; empty is text.
	Format string
}

// NewLogger returns the program's logger, to be passed on: there is no default
// one. A level or format that does not exist is an Invalid error.
func NewLogger(cfg LogConfig) (*slog.Logger, error) {
	level, err := ParseLevel(cfg.Level)
	if err != nil {
		return nil, err
	}
	opts := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(cfg.Out, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(cfg.Out, opts)), nil
	default:
		return nil, fault.Hint(fault.Invalidf("unknown log format %q", cfg.Format), "use text or json")
	}
}

// ParseLevel reads debug, info, warn or error; empty is info.
func ParseLevel(name string) (slog.Level, error) {
	switch strings.ToLower(name) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	default:
		return 0, fault.Hint(fault.Invalidf("unknown log level %q", name), "use debug, info, warn or error")
	}
}
