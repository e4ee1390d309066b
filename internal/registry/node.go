package registry

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/kith-id/kith/internal/fault"
)

// Node is an admitted node as the store keeps it.
type Node struct {
	Name         string     `json:"name"`
	Class        string     `json:"class"`
	Attestor     string     `json:"attestor"`     // how it was first admitted; a rejoin does not change it
	KeyHash      Hash       `json:"key"`          // SHA-256 of the node key's SPKI, bound at admission
	Attributes   Attributes `json:"attributes"`   // node.* facts; name, attestor and class are the fields above
	Joined       time.Time  `json:"joined"`       // first admission
	LastAttested time.Time  `json:"lastAttested"` // latest proof of the key
	Expires      time.Time  `json:"expires"`      // end of the newest SVID it got, written some time later
	Banned       bool       `json:"banned"`
}

// Scope is the node.* set that rules see for workloads of the node.
func (n Node) Scope() Attributes {
	e := Evidence{Attestor: n.Attestor, Name: n.Name, Attributes: n.Attributes}
	return Scope(e.NodeAttributes(), n.Class)
}

// Validate refuses a record that cannot be a node's.
func (n Node) Validate() error {
	if err := ValidateName(n.Name); err != nil {
		return fault.Invalidf("node: %w", err)
	}
	if err := ValidateName(n.Class); err != nil {
		return fault.Invalidf("node %s: class: %w", n.Name, err)
	}
	if n.Attestor == "" || n.KeyHash == (Hash{}) {
		return fault.Invalidf("node %s: no attestor or no key", n.Name)
	}
	if err := n.Attributes.Validate(); err != nil {
		return fault.Invalidf("node %s: %w", n.Name, err)
	}
	return nil
}

// Marshal is the record's value in the store.
func (n Node) Marshal() ([]byte, error) {
	if err := n.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(n)
}

// ParseNode reads a record of the store.
func ParseNode(value []byte) (Node, error) {
	var n Node
	if err := parseRecord(value, &n); err != nil {
		return Node{}, fault.Invalidf("node record: %w", err)
	}
	return n, n.Validate()
}

// JoinToken is a one-time token as the store keeps it: never the token, only
// its hash. Whoever deletes it first has used it.
type JoinToken struct {
	Hash    Hash      `json:"hash"`
	Node    string    `json:"node"`  // the only node name it admits
	Class   string    `json:"class"` // the only class; the node rule must match as well
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
}

// MaxTokenTTL is the longest a join token may live.
const MaxTokenTTL = 10 * time.Minute

// Expired reports whether the token is over at now. The zero token is.
func (t JoinToken) Expired(now time.Time) bool { return !now.Before(t.Expires) }

// Key is the token's key in the store.
func (t JoinToken) Key() string { return TokenKey(t.Hash.String()) }

// Validate refuses a record that cannot be a token's.
func (t JoinToken) Validate() error {
	if err := ValidateName(t.Node); err != nil {
		return fault.Invalidf("join token: node: %w", err)
	}
	if err := ValidateName(t.Class); err != nil {
		return fault.Invalidf("join token: class: %w", err)
	}
	if t.Hash == (Hash{}) {
		return fault.Invalidf("join token: no hash")
	}
	if ttl := t.Expires.Sub(t.Created); ttl <= 0 || ttl > MaxTokenTTL {
		return fault.Invalidf("join token: lives %s; at most %s", ttl, MaxTokenTTL)
	}
	return nil
}

// Marshal is the record's value in the store.
func (t JoinToken) Marshal() ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(t)
}

// ParseJoinToken reads a record of the store.
func ParseJoinToken(value []byte) (JoinToken, error) {
	var t JoinToken
	if err := parseRecord(value, &t); err != nil {
		return JoinToken{}, fault.Invalidf("join token record: %w", err)
	}
	return t, t.Validate()
}

// parseRecord is strict: a record is ours, so a field we do not know was
// written by a newer server, and guessing is worse than stopping.
func parseRecord(value []byte, into any) error {
	if len(value) > MaxValue {
		return fault.Invalidf("%d bytes", len(value))
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	return d.Decode(into)
}

// Hash is a SHA-256 digest; its text is lower-case hex.
type Hash [sha256.Size]byte

// HashOf is the digest of b.
func HashOf(b []byte) Hash { return sha256.Sum256(b) }

// String is the digest in hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(h)) {
		return fault.Invalidf("a digest of %d characters; want %d", len(text), hex.EncodedLen(len(h)))
	}
	_, err := hex.Decode(h[:], text)
	return err
}
