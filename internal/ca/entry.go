package ca

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/kith-id/kith/internal/audit"
)

// EntryKind is what a journal entry tells of.
type EntryKind string

// The kinds of entry. A leaf, issuing, jwt or wit entry is an intent: the
// certificate or token must be taken for issued unless a void entry with its
// serial follows.
const (
	LeafEntry    EntryKind = "leaf"
	IssuingEntry EntryKind = "issuing"
	JWTEntry     EntryKind = "jwt"
	WITEntry     EntryKind = "wit"
	VoidEntry    EntryKind = "void"
)

// Entry is one line of the journal of issuance.
type Entry struct {
	Kind      EntryKind
	Time      time.Time
	Serial    string // hexadecimal; of a token its jti
	ID        string
	KeyHash   string // of the SubjectPublicKeyInfo, hexadecimal
	NotAfter  time.Time
	Issuer    string // serial of the signing certificate; of a token the kid
	Audience  string // of a token, names with spaces between
	Requester string
	Rule      string
	Revision  uint64
	Reason    string // of a void entry
}

// texts are the fields that are text, in the order in which they are written.
func (e *Entry) texts() [9]*string {
	return [...]*string{(*string)(&e.Kind), &e.Serial, &e.ID, &e.KeyHash, &e.Issuer, &e.Audience, &e.Requester, &e.Rule, &e.Reason}
}

// encode writes the revision, the two times and the texts, each but the first after
// its length. An entry is written and read once for each SVID: as JSON that was a
// twentieth of its price.
func (e Entry) encode() ([]byte, error) {
	out := binary.AppendUvarint(make([]byte, 0, 512), e.Revision)
	for _, at := range []time.Time{e.Time, e.NotAfter} {
		var buf [16]byte
		text, err := at.AppendBinary(buf[:0])
		if err != nil {
			return nil, fmt.Errorf("journal entry: %w", err)
		}
		out = append(binary.AppendUvarint(out, uint64(len(text))), text...)
	}
	for _, text := range e.texts() {
		out = append(binary.AppendUvarint(out, uint64(len(*text))), *text...)
	}
	if len(out) > maxPayload {
		return nil, fmt.Errorf("journal entry has %d bytes, at most %d are allowed", len(out), maxPayload)
	}
	return out, nil
}

func decodeEntry(payload []byte) (Entry, error) {
	var e Entry
	revision, n := binary.Uvarint(payload)
	if n <= 0 {
		return Entry{}, errCutShort()
	}
	e.Revision, payload = revision, payload[n:]
	for _, at := range []*time.Time{&e.Time, &e.NotAfter} {
		text, rest, err := nextText(payload)
		if err == nil {
			err = at.UnmarshalBinary(text)
		}
		if err != nil {
			return Entry{}, fmt.Errorf("journal entry: %w", err)
		}
		payload = rest
	}
	for _, into := range e.texts() {
		text, rest, err := nextText(payload)
		if err != nil {
			return Entry{}, err
		}
		*into, payload = string(text), rest
	}
	if len(payload) > 0 {
		return Entry{}, fmt.Errorf("journal entry: %d bytes too many", len(payload))
	}
	return e, nil
}

// nextText takes a text and its length off the front.
func nextText(payload []byte) (text, rest []byte, err error) {
	length, n := binary.Uvarint(payload)
	if n <= 0 || length > uint64(len(payload)-n) {
		return nil, nil, errCutShort()
	}
	end := n + int(length)
	return payload[n:end], payload[end:], nil
}

func errCutShort() error { return errors.New("journal entry is cut short") }

// Recorder is what a journal is shipped to; *audit.Log is one. RecordAll
// returns once all events are on disk, or an error.
type Recorder interface {
	RecordAll(ctx context.Context, events []audit.Event) error
}

// ShipTo makes the Ship of a [Config] that writes to the audit log. After a
// crash between shipping and noting so, the same entries are shipped again:
// an event with a serial seen before is the same issuance.
func ShipTo(log Recorder) func(context.Context, []Entry) error {
	return func(ctx context.Context, entries []Entry) error {
		events := make([]audit.Event, len(entries))
		for i, e := range entries {
			events[i] = e.event()
		}
		return log.RecordAll(ctx, events)
	}
}

// what names the fact that says of which kind the SVID is.
func (e Entry) what() string {
	if e.Kind == JWTEntry || e.Kind == WITEntry {
		return "token"
	}
	return "certificate"
}

func (e Entry) event() audit.Event {
	event := audit.Event{
		Kind: audit.Issued, Actor: e.Requester, Object: e.ID, Outcome: "ok", Revision: e.Revision,
		Facts: map[string]string{e.what(): string(e.Kind), "serial": e.Serial, "journalled": e.Time.UTC().Format(time.RFC3339Nano)},
	}
	if e.Kind == VoidEntry {
		event.Kind, event.Outcome = audit.Voided, e.Reason
		return event
	}
	for _, fact := range [][2]string{{"key_sha256", e.KeyHash}, {"issuer", e.Issuer}, {"audience", e.Audience}, {"rule", e.Rule}} {
		if fact[1] != "" {
			event.Facts[fact[0]] = fact[1]
		}
	}
	event.Facts["not_after"] = e.NotAfter.UTC().Format(time.RFC3339)
	return event
}
