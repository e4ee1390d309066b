package policy

import (
	"strings"

	"github.com/kith-id/kith/internal/fault"
	"github.com/kith-id/kith/spiffe"
)

const (
	maxFrom    = 512
	maxActions = 512
)

// Rule says what some sources may, or may never, do on a service.
type Rule struct {
	Name string
	// From is who: a service name, /a/b, /a/* (one segment), /a/** (any depth,
	// /a included), spiffe://other/…, any (every authenticated peer) or anonymous.
	// A source that says no trust domain means the own one. That holds for any in
	// an allow too; in a deny it binds the peers of every trust domain.
	From []string
	// To is a service name, or an ID, an ID pattern or any: then the rule binds
	// every service that has such an identity.
	To        string
	Allow     []string // actions, as in ParseAction
	Deny      []string // actions; they beat every allow
	Except    []string // sources the denies of this rule do not bind
	Guardrail bool     // the platform's: denies only, reported as such
	Owner     string
}

// toOne is true if the rule binds the one service it names.
func (r Rule) toOne() bool {
	return r.To != "any" && !strings.Contains(r.To, "/")
}

// target parses To of a rule that does not simply name a service.
func (r Rule) target() (source, error) {
	to, err := parseSource(r.To)
	if err != nil {
		return to, err
	}
	if to.kind == anonymous {
		return to, fault.Invalidf("a service always has an identity")
	}
	return to, nil
}

// binds reports whether the rule is to svc, whose identities are ids.
func (r Rule) binds(svc string, ids []spiffe.ID, own spiffe.TrustDomain) (bool, error) {
	if r.toOne() {
		return r.To == svc, nil
	}
	to, err := r.target()
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		if to.matches(id, own) {
			return true, nil
		}
	}
	return false, nil
}

// services are the names in from and except.
func (r Rule) services() []string {
	var names []string
	for _, list := range [][]string{r.From, r.Except} {
		for _, s := range list {
			if src, err := parseSource(s); err == nil && src.kind == named {
				names = append(names, s)
			}
		}
	}
	return names
}
