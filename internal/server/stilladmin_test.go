package server_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/registry"
	"github.com/kith-id/kith/internal/server"
)

// between is a store in which something happens once, right before a
// transaction that writes below a prefix.
type between struct {
	registry.Store
	mu     sync.Mutex
	prefix string // guarded by mu, as is all below
	then   func()
	over   chan struct{} // closed when the transaction is over
}

func (b *between) before(prefix string, then func()) (over <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prefix, b.then, b.over = prefix, then, make(chan struct{})
	return b.over
}

func (b *between) Commit(ctx context.Context, txn registry.Txn) (registry.Version, error) {
	b.mu.Lock()
	then := b.then
	if then != nil && slices.ContainsFunc(txn.Do, func(op registry.Op) bool { return strings.HasPrefix(op.Key, b.prefix) }) {
		b.then = nil
	} else {
		then = nil
	}
	over := b.over
	b.mu.Unlock()
	if then != nil {
		defer close(over)
		then()
	}
	return b.Store.Commit(ctx, txn)
}

func startBetween(t *testing.T) (*rig, *between) {
	t.Helper()
	b := &between{}
	r := start(t, func(c *server.Config) {
		remotely(c)
		b.Store = c.Store
		c.Store = b
	})
	return r, b
}

// Threat T16: who is removed while a call of theirs is under way changes nothing
// by it, whatever the call is.
func TestThreatT16RemovedAdminChangesNothingMore(t *testing.T) {
	t.Parallel()
	for _, change := range []struct {
		name, prefix string
		call         func(*person) error
	}{
		{"a line for another admin", registry.AdminTokenPrefix, func(p *person) error {
			_, err := p.AddAdmin(t.Context(), &pb.AddAdminRequest{Name: "mallory", Role: "admin"})
			return err
		}},
		{"a line for a node", registry.TokenPrefix, func(p *person) error {
			_, err := p.AddNode(t.Context(), &pb.AddNodeRequest{Name: "n7", Class: "vms"})
			return err
		}},
		{"a rule", registry.ObjectPrefix, func(p *person) error {
			_, err := p.Apply(t.Context(), &pb.ApplyRequest{Put: []*pb.Object{rule("back-door", "web", "orders", "GET /")}, NoWait: true})
			return err
		}},
		{"a role", registry.AdminPrefix, func(p *person) error {
			_, err := p.SetAdminRole(t.Context(), &pb.SetAdminRoleRequest{Name: "bob", Role: "admin"})
			return err
		}},
	} {
		for _, how := range []string{"removed", "set back"} {
			t.Run(change.name+", "+how, func(t *testing.T) {
				r, b := startBetween(t)
				r.apply(&pb.ApplyRequest{Put: shop()})
				alice := r.person("alice", "admin")
				r.person("bob", "viewer")
				over := b.before(change.prefix, func() {
					if how == "set back" {
						r.role("alice", "viewer")
					} else if _, err := r.admin.RemoveAdmin(context.Background(), &pb.RemoveAdminRequest{Name: "alice"}); err != nil {
						t.Errorf("RemoveAdmin: %v", err)
					}
				})
				_ = change.call(alice) // what she hears of it depends on when she is cut off
				<-over
				items, _, err := r.store.Range(t.Context(), change.prefix)
				if err != nil {
					t.Fatal(err)
				}
				for _, item := range items {
					if text := string(item.Value); strings.Contains(text, "mallory") || strings.Contains(text, "n7") || strings.Contains(item.Key, "back-door") ||
						strings.Contains(text, `"bob","role":"admin"`) {
						t.Errorf("%s was written for one who is no admin any more: %s", change.name, item.Key)
					}
				}
			})
		}
	}
}

// Threat T16: a line that was being made while its maker was removed is void.
func TestThreatT16LineOfARemovedAdminIsVoid(t *testing.T) {
	t.Parallel()
	r, b := startBetween(t)
	alice := r.person("alice", "admin")
	var line string
	b.before(registry.AdminPrefix, func() { // of the removal, which has looked for lines already
		added, err := alice.AddAdmin(context.Background(), &pb.AddAdminRequest{Name: "mallory", Role: "admin"})
		if err != nil {
			t.Errorf("AddAdmin: %v", api.FromWire(err))
		}
		line = added.GetJoin()
	})
	if _, err := r.admin.RemoveAdmin(t.Context(), &pb.RemoveAdminRequest{Name: "alice"}); err != nil {
		t.Fatalf("RemoveAdmin: %v", api.FromWire(err))
	}
	_, err := r.joinAdmin(line, newKey(t))
	wantDenied(t, "a line of a removed admin", err, "the admin token was refused")
	r.person("alice", "admin") // who is let in again is not who made it
	_, err = r.joinAdmin(line, newKey(t))
	wantDenied(t, "a line of before", err, "the admin token was refused")
	if _, err := r.joinAdmin(r.adminLine("mallory", "viewer"), newKey(t)); err != nil {
		t.Errorf("a line of root: %v", err)
	}
}
