package ca

import (
	"context"
	"encoding/json"
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
	Kind      EntryKind `json:"kind"`
	Time      time.Time `json:"time"`
	Serial    string    `json:"serial"` // hexadecimal; of a token its jti
	ID        string    `json:"id"`
	KeyHash   string    `json:"key_sha256,omitempty"` // of the SubjectPublicKeyInfo, hexadecimal
	NotAfter  time.Time `json:"not_after,omitzero"`
	Issuer    string    `json:"issuer,omitempty"`   // serial of the signing certificate; of a token the kid
	Audience  string    `json:"audience,omitempty"` // of a token, names with spaces between
	Requester string    `json:"requester,omitempty"`
	Rule      string    `json:"rule,omitempty"`
	Revision  uint64    `json:"revision,omitempty"`
	Reason    string    `json:"reason,omitempty"` // of a void entry
}

func (e Entry) encode() ([]byte, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("journal entry: %w", err)
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("journal entry has %d bytes, at most %d are allowed", len(payload), maxPayload)
	}
	return payload, nil
}

func decodeEntry(payload []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(payload, &e); err != nil {
		return Entry{}, fmt.Errorf("journal entry: %w", err)
	}
	return e, nil
}

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
	for name, value := range map[string]string{"key_sha256": e.KeyHash, "issuer": e.Issuer, "audience": e.Audience, "rule": e.Rule} {
		if value != "" {
			event.Facts[name] = value
		}
	}
	event.Facts["not_after"] = e.NotAfter.UTC().Format(time.RFC3339)
	return event
}
