package store

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// maxLogLine bounds one line of a member's log.
const maxLogLine = 64 << 10

// forward reads the member's JSON log to its end and passes it on. What the
// engine calls a warning or an error is advice to who runs it by hand, some of
// it at every start and stop: debug. What ends it is our warning, and the
// reason that the health gives.
func (w *memberWords) forward(r io.Reader, log *slog.Logger) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4<<10), maxLogLine)
	for lines.Scan() {
		level, text, attrs := parseMemberLine(lines.Bytes())
		if level >= slog.LevelWarn {
			w.mu.Lock()
			w.worst = text
			w.mu.Unlock()
		}
		log.LogAttrs(context.Background(), level, "store member says", append([]slog.Attr{slog.String("text", text)}, attrs...)...)
	}
	_, _ = io.Copy(io.Discard, r)
}

// parseMemberLine reads one line of zap's JSON. Anything else, such as a
// goroutine's trace, is passed on as it is.
func parseMemberLine(line []byte) (slog.Level, string, []slog.Attr) {
	var entry map[string]any
	if err := json.Unmarshal(line, &entry); err != nil {
		text := string(line)
		if strings.HasPrefix(text, "panic:") || strings.HasPrefix(text, "fatal error:") {
			return slog.LevelWarn, text, nil
		}
		return slog.LevelDebug, text, nil
	}
	level := slog.LevelDebug
	switch entry["level"] {
	case "dpanic", "panic", "fatal":
		level = slog.LevelWarn
	}
	text, _ := entry["msg"].(string)
	if reason, ok := entry["error"].(string); ok {
		text += ": " + reason
	}
	var attrs []slog.Attr
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		switch key {
		case "level", "msg", "error", "ts", "caller", "stacktrace":
		default:
			attrs = append(attrs, slog.Any(key, entry[key]))
		}
	}
	return level, text, attrs
}
