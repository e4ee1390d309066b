package audit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	maxAttributes = 64
	maxLine       = 64 << 10
)

// Kind is what sort of deed an event tells of. It is a closed set: a new deed
// is a new constant here.
type Kind string

// The deeds that are audited.
const (
	Admitted Kind = "admitted" // a node was let in, or refused
	Issued   Kind = "issued"   // an SVID was signed
	Voided   Kind = "voided"   // an issuance that was journalled did not happen
	Changed  Kind = "changed"  // an operator changed an object
	Decided  Kind = "decided"  // a request was allowed or denied
	Started  Kind = "started"  // a program began or ended
	Rotated  Kind = "rotated"  // an authority came into use or left it
	Dropped  Kind = "dropped"  // the oldest lines of this log were removed, as it was told to
)

// Phase tells an intent from what became of it. Who audits a deed writes
// Before, does it, and writes After with the outcome; a Before without an
// After is a deed whose end is unknown.
type Phase string

// The phases of a deed. Single is for one that is over when it is told.
const (
	Single Phase = "single"
	Before Phase = "before"
	After  Phase = "after"
)

// Event is one thing that was done, or is about to be.
type Event struct {
	Kind     Kind
	Phase    Phase             // empty means Single
	Actor    string            // who: a SPIFFE ID, "uid 1000", the server's name
	Object   string            // to what: "rule web-reads", a SPIFFE ID
	Outcome  string            // "ok", or why not
	Revision uint64            // of the registry the deed was decided by, 0 if none
	Facts    map[string]string // at most 64, all else worth knowing; never a secret
}

// line is an event as it stands in the file. The order of fields is the order
// in which people read.
type line struct {
	Seq      uint64            `json:"seq"`
	Time     time.Time         `json:"time"`
	Kind     Kind              `json:"kind"`
	Phase    Phase             `json:"phase"`
	Actor    string            `json:"actor,omitempty"`
	Object   string            `json:"object,omitempty"`
	Outcome  string            `json:"outcome,omitempty"`
	Revision uint64            `json:"revision,omitempty"`
	Facts    map[string]string `json:"facts,omitempty"`
	Prev     string            `json:"prev"` // SHA-256 of the line before, hexadecimal
}

// usualLine is room for a line of most events.
const usualLine = 768

// appendLine adds an event's line to text, which is as it was if there is an error.
func (e Event) appendLine(text []byte, seq uint64, now time.Time, prev string) ([]byte, error) {
	if err := e.validate(); err != nil {
		return text, err
	}
	phase := e.Phase
	if phase == "" {
		phase = Single
	}
	longer, err := line{
		Seq: seq, Time: now.UTC(), Kind: e.Kind, Phase: phase, Actor: e.Actor, Object: e.Object,
		Outcome: e.Outcome, Revision: e.Revision, Facts: e.Facts, Prev: prev,
	}.appendTo(text)
	if err != nil {
		return text, fmt.Errorf("audit %s: %w", e.Kind, err)
	}
	if n := len(longer) - len(text) + 1; n > maxLine {
		return text, fmt.Errorf("audit %s: event has %d bytes, at most %d are allowed", e.Kind, n, maxLine)
	}
	return append(longer, '\n'), nil
}

// appendTo adds what encoding/json writes, and a test compares. Each SVID has a line, for
// which reflection and the sorting of facts were a fiftieth of its price; text that
// needs escapes is left to it.
func (l line) appendTo(text []byte) ([]byte, error) {
	start, plain := len(text), true
	asJSON := func() ([]byte, error) {
		one, err := json.Marshal(l)
		return append(text[:start], one...), err
	}
	if year := l.Time.Year(); year < 0 || year > 9999 || l.Time.Location() != time.UTC {
		return asJSON()
	}
	put := func(before, value string) {
		plain = plain && isPlain(value)
		text = append(append(append(text, before...), value...), '"')
	}
	some := func(before, value string) {
		if value != "" {
			put(before, value)
		}
	}
	text = strconv.AppendUint(append(text, `{"seq":`...), l.Seq, 10)
	text = append(l.Time.AppendFormat(append(text, `,"time":"`...), time.RFC3339Nano), '"')
	put(`,"kind":"`, string(l.Kind))
	put(`,"phase":"`, string(l.Phase))
	some(`,"actor":"`, l.Actor)
	some(`,"object":"`, l.Object)
	some(`,"outcome":"`, l.Outcome)
	if l.Revision != 0 {
		text = strconv.AppendUint(append(text, `,"revision":`...), l.Revision, 10)
	}
	if len(l.Facts) > 0 {
		between := `,"facts":{"`
		for _, name := range slices.Sorted(maps.Keys(l.Facts)) {
			put(between, name)
			put(`:"`, l.Facts[name])
			between = `,"`
		}
		text = append(text, '}')
	}
	put(`,"prev":"`, l.Prev)
	if !plain {
		return asJSON()
	}
	return append(text, '}'), nil
}

// isPlain reports whether JSON, as encoding/json writes it, holds a text as it is.
func isPlain(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return false
		}
	}
	return true
}

func (e Event) validate() error {
	switch e.Kind {
	case Admitted, Issued, Voided, Changed, Decided, Started, Rotated, Dropped:
	default:
		return fmt.Errorf("audit: unknown kind %q", e.Kind)
	}
	switch e.Phase {
	case "", Single, Before, After:
	default:
		return fmt.Errorf("audit %s: unknown phase %q", e.Kind, e.Phase)
	}
	if len(e.Facts) > maxAttributes {
		return fmt.Errorf("audit %s: event has %d facts, at most %d are allowed", e.Kind, len(e.Facts), maxAttributes)
	}
	for _, text := range []string{e.Actor, e.Object, e.Outcome} {
		if !utf8.ValidString(text) {
			return fmt.Errorf("audit %s: event is not UTF-8", e.Kind)
		}
	}
	return nil
}
