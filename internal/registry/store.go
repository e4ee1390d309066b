package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kith-id/kith/internal/fault"
)

// Version is the store's own revision: one counter for the whole trust domain,
// moved by exactly one in each committed transaction, never by anything else.
// An empty store is at version 0.
type Version uint64

// What a store accepts; drivers must not accept more, and must accept this.
const (
	MaxKey      = 512
	MaxValue    = 512 << 10
	MaxTxnOps   = 8 << 10
	MaxTxnBytes = 4 << 20
)

var (
	// ErrCompacted says that a watch cannot resume: the history after its
	// version is gone. Range again and watch from the version it returns.
	ErrCompacted = errors.New("history is compacted")
	// ErrAway says that the store cannot be reached or refuses writes now.
	// Nothing was changed; the same call may succeed later.
	ErrAway = errors.New("store is away")
	// ErrUncertain says that a commit was cut off and may or may not have
	// happened. The caller must read before it decides anything by it.
	ErrUncertain = errors.New("commit may or may not have happened")
)

// Store keeps the trust domain's state: a small, linearizable, revisioned map.
// Every method is safe for concurrent use and returns soon after its context
// ends. registrytest holds the suite that each driver passes.
type Store interface {
	// Get reads one key, linearizably. A missing key is a NotFound error.
	Get(ctx context.Context, key string) (Item, error)
	// Range reads every key that begins with prefix, sorted by key, and the
	// version at which exactly these items were current.
	Range(ctx context.Context, prefix string) ([]Item, Version, error)
	// Pages is Range in pieces: take is called with some items after the other,
	// in order, while the next are on their way; what it gets is its own. All of
	// them were current at the version returned. An error of take ends it, and
	// is returned as it is.
	Pages(ctx context.Context, prefix string, take func([]Item) error) (Version, error)
	// Commit applies the transaction if all its conditions hold, and returns
	// its version once it is durable. A condition that does not hold is a
	// Conflict error naming the key. A commit cut off in flight is retried
	// until its fate is known or the context ends (ErrUncertain).
	Commit(ctx context.Context, txn Txn) (Version, error)
	// Watch follows the keys that begin with prefix from the transaction after
	// the given version on. It survives restarts of the engine.
	Watch(ctx context.Context, prefix string, after Version) (Watch, error)
}

// Watch is a running watch. It is used by one goroutine at a time.
type Watch interface {
	// Next waits for the next transaction that touched the prefix. Batches
	// come in version order, each once, each whole. Any error is final.
	Next(ctx context.Context) (Batch, error)
	// Close ends the watch and frees what it holds.
	Close() error
}

// Item is one key's value and the version of the transaction that wrote it.
type Item struct {
	Key     string
	Value   []byte
	Version Version
}

// Batch is what one transaction did below a watched prefix.
type Batch struct {
	Version Version
	Events  []Event // sorted by key
}

// Event is one key's change: Value is nil and Deleted true for a deletion.
type Event struct {
	Key     string
	Value   []byte
	Deleted bool
}

// Txn is a set of changes that happen together, or not at all. Each key occurs
// at most once in Do.
type Txn struct {
	If []Condition
	Do []Op
}

// Condition is something about a key that must hold for a Txn to be applied.
type Condition struct {
	Key     string
	Want    Want
	Version Version // for Unchanged
}

// Want is the kind of a condition. The zero Want never holds.
type Want int

// The kinds of conditions.
const (
	Exists    Want = iota + 1 // the key is there
	Absent                    // the key is not there
	Unchanged                 // the key is there and was last written at Version
)

// Op writes or deletes one key. Deleting an absent key does nothing.
type Op struct {
	Key    string
	Value  []byte
	Delete bool
}

// IfExists requires that key is there.
func IfExists(key string) Condition { return Condition{Key: key, Want: Exists} }

// IfAbsent requires that key is not there.
func IfAbsent(key string) Condition { return Condition{Key: key, Want: Absent} }

// IfUnchanged requires that the item is as it was read.
func IfUnchanged(item Item) Condition {
	return Condition{Key: item.Key, Want: Unchanged, Version: item.Version}
}

// Put writes value under key.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete removes key.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Holds reports whether the condition is true of item, where there says
// whether the key exists. Drivers that evaluate conditions themselves use it.
func (c Condition) Holds(item Item, there bool) bool {
	switch c.Want {
	case Exists:
		return there
	case Absent:
		return !there
	case Unchanged:
		return there && item.Version == c.Version
	default:
		return false
	}
}

// ConflictOn is the error of a condition that does not hold.
func (c Condition) ConflictOn() error {
	switch c.Want {
	case Exists:
		return fault.Conflictf("%s does not exist", c.Key)
	case Absent:
		return fault.Conflictf("%s exists", c.Key)
	default:
		return fault.Conflictf("%s has changed", c.Key)
	}
}

// Validate refuses a transaction that no driver may accept.
func (t Txn) Validate() error {
	if len(t.Do) == 0 {
		return fault.Invalidf("a transaction that changes nothing")
	}
	if len(t.Do) > MaxTxnOps || len(t.If) > MaxTxnOps {
		return fault.Invalidf("a transaction of %d changes and %d conditions; at most %d of each", len(t.Do), len(t.If), MaxTxnOps)
	}
	for _, c := range t.If {
		if err := ValidateKey(c.Key); err != nil {
			return err
		}
		if c.Want < Exists || c.Want > Unchanged {
			return fault.Invalidf("condition on %s: unknown kind %d", c.Key, c.Want)
		}
	}
	return t.validateOps()
}

func (t Txn) validateOps() error {
	seen := make(map[string]bool, len(t.Do))
	total := 0
	for _, op := range t.Do {
		if err := ValidateKey(op.Key); err != nil {
			return err
		}
		if seen[op.Key] {
			return fault.Invalidf("%s is changed twice in one transaction", op.Key)
		}
		seen[op.Key] = true
		if len(op.Value) > MaxValue {
			return fault.Invalidf("value of %s has %d bytes; at most %d", op.Key, len(op.Value), MaxValue)
		}
		total += len(op.Key) + len(op.Value)
	}
	if total > MaxTxnBytes {
		return fault.Invalidf("a transaction of %d bytes; at most %d", total, MaxTxnBytes)
	}
	return nil
}

// ValidateKey accepts non-empty printable ASCII keys of at most MaxKey bytes.
func ValidateKey(key string) error {
	if key == "" {
		return fault.Invalidf("empty key")
	}
	if len(key) > MaxKey {
		return fault.Invalidf("key of %d bytes; at most %d", len(key), MaxKey)
	}
	if i := strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }); i >= 0 {
		return fault.Invalidf("key %q holds a character outside printable ASCII", key)
	}
	return nil
}

// String is the version as logs and operators see it.
func (v Version) String() string { return fmt.Sprintf("%d", uint64(v)) }
