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

// forward reads the member's JSON log to its end and passes it on for
// debugging: some of what the engine calls an error comes at every start and
// stop. What ended it is kept; the supervisor and the health tell it.
func (w *memberWords) forward(r io.Reader, log *slog.Logger) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4<<10), maxLogLine)
	for lines.Scan() {
		last, text, attrs := parseMemberLine(lines.Bytes())
		if last {
			w.mu.Lock()
			w.worst = text
			w.mu.Unlock()
		}
		log.LogAttrs(context.Background(), slog.LevelDebug, "store member says", append([]slog.Attr{slog.String("text", text)}, attrs...)...)
	}
	_, _ = io.Copy(io.Discard, r)
}

// parseMemberLine reads one line of zap's JSON; last says that it is the cause
// of the member's end. Anything that is no JSON, such as a goroutine's trace,
// is passed on as it is.
func parseMemberLine(line []byte) (last bool, text string, attrs []slog.Attr) {
	var entry map[string]any
	if err := json.Unmarshal(line, &entry); err != nil {
		text := string(line)
		return strings.HasPrefix(text, "panic:") || strings.HasPrefix(text, "fatal error:"), text, nil
	}
	switch entry["level"] {
	case "dpanic", "panic", "fatal":
		last = true
	}
	text, _ = entry["msg"].(string)
	if reason, ok := entry["error"].(string); ok {
		text += ": " + reason
	}
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		switch key {
		case "level", "msg", "error", "ts", "caller", "stacktrace":
		default:
			attrs = append(attrs, slog.Any(key, entry[key]))
		}
	}
	return last, text, attrs
}
