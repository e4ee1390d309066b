package extauthz

import (
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/kith-id/kith/internal/policy"
	"github.com/kith-id/kith/internal/usertoken"
	"github.com/kith-id/kith/spiffe"
)

// compiled is the newest policy that could be compiled, in parts to go on with: a
// gateway in front of a thousand services answers for all of them, and a change is
// mostly about one.
type compiled struct {
	book   *policy.Book // nil before the first
	tables map[string]*policy.Table

	providers []usertoken.Provider
	tokens    map[string]*usertoken.Checker
}

// compile makes a ruling. What the change is not about is taken over: tables of
// services that it does not touch, and checkers of user tokens, with what they
// remember, of services whose providers stay.
func (p *Point) compile(in Policy) (*ruling, error) {
	if in.Unread != nil {
		return nil, in.Unread
	}
	next := &ruling{own: in.Book.TrustDomain(), services: slices.Sorted(slices.Values(in.Services))}
	var err error
	if next.tables, err = p.last.compile(in.Book, next.services); err != nil {
		return nil, err
	}
	if next.tokens, err = p.check(in.Providers, next.services); err != nil {
		return nil, err
	}
	p.last = compiled{in.Book, next.tables, in.Providers, next.tokens}
	return next, nil
}

func (c *compiled) compile(book *policy.Book, services []string) (map[string]*policy.Table, error) {
	var since *policy.Since
	if c.book != nil {
		since = book.Since(c.book)
	}
	tables := make(map[string]*policy.Table, len(services))
	for _, name := range services {
		table := c.tables[name]
		if table == nil || since.Touches(name) {
			var err error
			if table, err = book.Compile(name); err != nil {
				return nil, fmt.Errorf("policy of %s: %w", name, err)
			}
		}
		tables[name] = table
	}
	return tables, nil
}

// check makes what checks user tokens, by the keys that are known.
func (p *Point) check(providers []usertoken.Provider, services []string) (map[string]*usertoken.Checker, error) {
	tokens := make(map[string]*usertoken.Checker, len(services))
	stay := sameProviders(p.last.providers, providers)
	for _, name := range services {
		former := p.last.tokens[name]
		if former != nil && (stay || sameProviders(those(p.last.providers, name), those(providers, name))) {
			tokens[name] = former
			continue
		}
		set, err := usertoken.Compile(providers, name)
		if err != nil {
			return nil, fmt.Errorf("providers of %s: %w", name, err)
		}
		tokens[name] = usertoken.NewChecker(set, p.keys)
	}
	return tokens, nil
}

// learn makes new checkers of the services whose providers publish keys at url.
func (c *compiled) learn(url string, keys map[string]*spiffe.JWKSet) {
	c.tokens = maps.Clone(c.tokens)
	for name, former := range c.tokens {
		if slices.ContainsFunc(c.providers, func(by usertoken.Provider) bool { return by.URL == url && by.For(name) }) {
			c.tokens[name] = usertoken.NewChecker(former.Providers(), keys)
		}
	}
}

func sameProviders(a, b []usertoken.Provider) bool {
	return slices.EqualFunc(a, b, func(a, b usertoken.Provider) bool { return reflect.DeepEqual(a, b) })
}

// those are the providers that sign for a service.
func those(providers []usertoken.Provider, service string) []usertoken.Provider {
	return slices.DeleteFunc(slices.Clone(providers), func(p usertoken.Provider) bool { return !p.For(service) })
}
