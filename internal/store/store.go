// Package store keeps the trust domain's state: in memory, or in an etcd that
// runs as a supervised child process of the same binary. It knows keys, values
// and versions; what they mean is registry's.
package store

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kith-id/kith/internal/registry"
)

// State is how a store is doing.
type State string

// The three states of a store.
const (
	OK       State = "ok"
	ReadOnly State = "read-only" // reads work, commits are refused
	Away     State = "away"      // nothing works until the engine is back
)

// Health is a store's state, since when, and why if it is not OK.
type Health struct {
	State  State
	Reason string
	Since  time.Time
}

// String is the health as `kith status` prints it.
func (h Health) String() string {
	if h.Reason == "" {
		return string(h.State)
	}
	return string(h.State) + ": " + h.Reason
}

// touches keeps the events below prefix.
func touches(events []registry.Event, prefix string) []registry.Event {
	var kept []registry.Event
	for _, e := range events {
		if strings.HasPrefix(e.Key, prefix) {
			kept = append(kept, e)
		}
	}
	return kept
}

// checkCall refuses a call whose context is over before anything is done.
func checkCall(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
