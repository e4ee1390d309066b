package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kith-id/kith/internal/extauthz"
	"github.com/kith-id/kith/internal/pb"
	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
)

// comparison is what differs between two worlds, kept for the next point that came
// from the same one. Guarded by mu of points.
type comparison struct {
	now, before *world
	since       *policy.Since
}

func (c *comparison) of(now, before *world) *policy.Since {
	if c.now != now || c.before != before {
		*c = comparison{now, before, now.policy.Since(before.policy)}
	}
	return c.since
}

// placeInside is place for a point that decides in this process. It needs no copy of the
// policy, which it reads where it is: a slice of a hundred thousand rules, cut, sent
// and compiled anew for a change of one, took seconds.
func (s *points) placeInside(w *world, p *point, former []string) bool {
	own := &pb.Slice{Schema: policy.Schema, TrustDomain: w.domain.String(), Node: w.node, Dev: w.dev, Providers: w.providersOf(p.services), Log: s.log}
	for _, id := range p.ids {
		own.Ids = append(own.Ids, id.String())
	}
	before := p.by
	p.by = w
	if before != nil && p.slice != nil && sameSlice(p.slice, own) && slices.Equal(former, p.services) && !s.differs(w, before, p.services) {
		return false
	}
	p.want(w, own)
	return true
}

// differs says whether two worlds may decide differently on some services.
func (s *points) differs(w, before *world, services []string) bool {
	same := func(a, b error) bool { return a.Error() == b.Error() }
	return !maps.EqualFunc(w.unread, before.unread, same) || slices.ContainsFunc(services, s.compared.of(w, before).Touches)
}

// inForce is what a point inside is to put in force next: a policy, or keys, or
// nothing.
func (s *points) inForce(p *point) (*extauthz.Policy, *pb.ProviderKeys) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.unsent || !s.interest.covers(p.services) {
		return nil, s.untold(p)
	}
	p.sent, p.unsent, p.named = p.wanted, false, p.slice.GetProviders()
	next := &extauthz.Policy{Revision: p.wanted, Book: p.by.policy, Services: p.services, Unread: p.by.unreadable(), Log: p.slice.Log}
	for _, m := range p.slice.GetProviders() {
		provider, err := usertoken.FromPB(m)
		next.Unread = errors.Join(next.Unread, err)
		next.Providers = append(next.Providers, provider)
	}
	return next, nil
}

// unreadable is why enforcement points can allow nothing: some of the policy is not
// understood here. nil where all of it is.
func (w *world) unreadable() error {
	for _, k := range slices.SortedFunc(maps.Keys(w.unread), func(a, b objectKey) int { return cmp.Compare(a.name, b.name) }) {
		return fmt.Errorf("%s %s: %w", k.kind, k.name, w.unread[k])
	}
	return nil
}
