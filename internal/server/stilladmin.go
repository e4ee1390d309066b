package server

import (
	"context"
	"slices"
	"strings"

	"github.com/kith-id/kith/internal/api"
	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/internal/registry"
)

// stillAdmin is what must hold when a change is written for an admin elsewhere:
// that they are what they were when the door let them in. Otherwise who is removed
// could have a call under way that undoes it.
func (s *Server) stillAdmin(ctx context.Context) ([]registry.Condition, error) {
	actor := api.ActorOf(ctx)
	if actor.Admin == "" {
		return nil, nil
	}
	entry, ok := s.snap().admins[actor.Admin]
	if !ok || entry.admin.Role != actor.Role || !slices.Equal(entry.admin.Teams, actor.Teams) {
		return nil, fault.Hint(fault.Deniedf("admin %s was removed, or given another role, while this was under way: nothing was changed", actor.Admin),
			"ask an admin what you may do now: kith ids admins")
	}
	return []registry.Condition{registry.IfUnchanged(entry.item)}, nil
}

// makerOf is what must hold when a token is used: that the admin who made it is
// one, and was when they did. A token that was being made while its maker was
// removed is void as those that were there.
func (s *Server) makerOf(token registry.AdminToken) ([]registry.Condition, error) {
	snap := s.snap()
	prefix, err := adminID(snap.trustDomain, "x")
	if err != nil {
		return nil, err
	}
	name, elsewhere := strings.CutPrefix(token.By, strings.TrimSuffix(prefix.String(), "x"))
	if !elsewhere {
		return nil, nil // root on this host
	}
	maker, ok := snap.admins[name]
	if !ok || maker.admin.Role != registry.RoleAdmin || maker.admin.Joined.After(token.Created) {
		return nil, fault.Deniedf("admin token of %s was made by %s, who is no admin any more", token.Name, name)
	}
	if name == token.Name {
		return nil, nil // the record that is replaced, which the transaction looks at
	}
	return []registry.Condition{registry.IfUnchanged(maker.item)}, nil
}
